"""Runs with local checkpoints: several nodes on one machine, each with a directory of its own."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

from recipes.training.faults import VARIABLE
from tests.support.background_cases import replaced
from tests.support.corpus import TinyData
from tests.support.fault_cases import set_environment
from tests.support.forked import Forked
from tests.support.run_cases import Outcome, run_case

DISK = "NODE_DISK"


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {
        "output_dir": str(output_dir),
        "save_nemo": "false",
        "trainer__max_steps": "12",
        "trainer__checkpoint__every_n_steps": "5",
        "trainer__checkpoint__local__directory": f"${{oc.env:{DISK}}}",
        "trainer__checkpoint__local__every_n_steps": "2",
    }
    return data.overrides(**settings | changes)


def node_disk(disks: Path, rank: int, per_node: int) -> Path:
    return disks / f"node_{rank // per_node}"


def on_nodes_case(settings: list[str], disks: Path, per_node: int) -> Outcome:
    """A run in a pool's process, on the node that its rank is on."""
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_WORLD_SIZE"] = str(per_node)
    os.environ["LOCAL_RANK"] = str(rank % per_node)
    os.environ[DISK] = str(node_disk(disks, rank, per_node))
    return run_case(settings)


def refused_case(settings: list[str], disks: Path, refused: int) -> Outcome:
    """A run of a rank per node, one of which finds no space for its part of step 2."""
    from recipes.checkpoint.local.files import LocalDirectory

    publish: Any = LocalDirectory.publish

    def full(self: Any, part: Any, partial: Path) -> None:
        if (part.rank, part.step) == (refused, 2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        publish(self, part, partial)

    with replaced(LocalDirectory, "publish", full if os.environ["RANK"] == str(refused) else publish):
        return on_nodes_case(settings, disks, 1)


def start_nodes(settings: list[str], disks: Path, size: int, per_node: int, faults: str) -> list[Forked]:
    """A process per rank, whose ends can be seen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(size):
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(per_node),
            "LOCAL_RANK": str(rank % per_node),
            DISK: str(node_disk(disks, rank, per_node)),
            VARIABLE: faults,
        }
        started.append(Forked("recipes.pretrain", settings, before=partial(_on_node, variables)))
    return started


def _on_node(variables: dict[str, str]) -> None:
    """Every step waits for the local save before it, so that it is known what a kill finds."""
    set_environment(variables)
    from recipes.checkpoint.local.save import LocalSaves, Saved

    finish = LocalSaves.finish

    def patient(self: LocalSaves, *, wait: bool) -> Saved | None:
        return finish(self, wait=True)

    LocalSaves.finish = patient  # type: ignore[method-assign]
