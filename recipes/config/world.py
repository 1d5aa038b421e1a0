"""How many processes take part and which one this is, read from the launcher's environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

# Slurm's step numbers from here on are for what srun did not launch: interactive shells, batch scripts ...
FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class World:
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1


def launched_world() -> World:
    """From torchrun's variables if they are set, else those of a Slurm job step, else one process."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return World(
            rank=int(env["RANK"]),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            size=int(env["WORLD_SIZE"]),
            local_size=int(env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"])),
        )
    return _slurm_step(env) or World()


def _slurm_step(env: Mapping[str, str]) -> World | None:
    """The processes of the job step that this one belongs to; None outside a step.

    The job's own variables (SLURM_NTASKS) are also set in a shell inside the allocation, where no other
    processes have been started, so the step's variables count.
    """
    step = env.get("SLURM_STEP_ID", "")
    if "SLURM_PROCID" not in env or not step.isdecimal() or int(step) >= FIRST_SPECIAL_STEP:
        return None
    size = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS", "1"))
    if size == 1:
        return None
    per_node = _tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", ""))
    node = int(env.get("SLURM_NODEID", "0"))
    return World(
        rank=int(env["SLURM_PROCID"]),
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        size=size,
        local_size=per_node[node] if node < len(per_node) else int(env.get("SLURM_NTASKS_PER_NODE", "1")),
    )


def first_node() -> str | None:
    """Where rank 0 of a Slurm job step on several nodes is; None elsewhere."""
    if _slurm_step(os.environ) is None or os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return None
    return _first_host(os.environ.get("SLURM_STEP_NODELIST", "")) or None


def _first_host(text: str) -> str:
    """Of Slurm's short form, ``rack1node[03-05,9],other``: rack1node03."""
    host = re.split(r",(?![^\[]*\])", text)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", host)


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's short form, ``8(x3),4``: 8, 8, 8 and 4."""
    counts = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
