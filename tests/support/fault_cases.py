"""Runs in which something goes wrong on purpose (recipes/training/faults.py)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from benchmarks.measure.lives import Life
from recipes.training.faults import VARIABLE
from tests.support.forked import Forked
from tests.support.run_cases import Outcome, run_case


def faulty_case(overrides: list[str], faults: str) -> Outcome:
    """A run in a pool's process."""
    with patch.dict(os.environ, {VARIABLE: faults}):
        return run_case(overrides)


def recorded_faulty_case(overrides: list[str], faults: str) -> Any:
    """The same as on a GPU that records steps."""
    from tests.support.graph_cases import recorded_case

    with patch.dict(os.environ, {VARIABLE: faults}):
        return recorded_case(overrides)[0]


def start_ranks(
    overrides: list[str], faults: str, size: int = 2, also: Callable[[], None] | None = None
) -> list[Forked]:
    """A process per rank, as a launcher would start them, whose ends can be seen; ``also``, a function of a
    module, runs in each first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), VARIABLE: faults}
    common["LOCAL_WORLD_SIZE"] = str(size)
    return [
        Forked("recipes.pretrain", overrides, before=partial(_prepare, common | _rank(rank), also))
        for rank in range(size)
    ]


def _rank(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def _prepare(variables: dict[str, str], also: Callable[[], None] | None) -> None:
    set_environment(variables)
    if also is not None:
        also()


class Ranks(Life):
    """Processes that begin with the engine imported, for what follows a run from outside."""

    def __init__(self, overrides: list[str], faults: str = "") -> None:
        self.ranks = start_ranks(overrides, faults)

    def codes(self) -> list[int | None]:
        return [rank.poll() for rank in self.ranks]

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()

    def output(self) -> str:
        return "".join("".join(rank.written()) for rank in self.ranks)


def ends(ranks: list[Forked], timeout: float = 120) -> list[tuple[int | None, str, str]]:
    """Exit code, standard output and error of each rank."""
    try:
        return [(rank.returncode, *output) for rank in ranks for output in [rank.communicate(timeout)]]
    finally:
        for rank in ranks:
            rank.kill()
