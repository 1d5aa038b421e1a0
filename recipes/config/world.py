"""How many processes take part and which one this is, read off the launcher's environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1


def launched_world() -> World:
    """torchrun's variables if they are there, then those of a Slurm job step, else one process."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return World(
            rank=int(env["RANK"]),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            size=int(env["WORLD_SIZE"]),
            local_size=int(env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"])),
        )
    # SLURM_PROCID is also set in an interactive allocation's shell; a job step has SLURM_STEP_ID too.
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and int(env.get("SLURM_NTASKS", "1")) > 1:
        return World(
            rank=int(env["SLURM_PROCID"]),
            local_rank=int(env.get("SLURM_LOCALID", "0")),
            size=int(env["SLURM_NTASKS"]),
            local_size=int(env.get("SLURM_NTASKS_PER_NODE", "1")),
        )
    return World()
