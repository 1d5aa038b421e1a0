"""Submits a job once, and remembers it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from recipes.errors import UserError
from recipes.files import make_directory
from recipes.launch.command import Command
from recipes.launch.launched import STATE, Launched, allow_requeueing, queued, remember


def submit(command: Command, directory: Path, kind: str, times: int = 1) -> Iterator[str]:
    """Submits, and yields the number of each job.

    Args:
        directory: of the run, or of the job's logs.

    Raises:
        UserError: it waits or runs already, or Slurm refuses it.
    """
    refuse_second(directory)
    make_directory(directory / STATE)
    allow_requeueing(directory)
    for _ in range(times):
        job = command.output().strip().split(";")[0]  # JOB;CLUSTER where there are several.
        remember(directory, Launched(job, time.time(), str(command), kind))
        yield job


def refuse_second(directory: Path) -> None:
    """Raises:
    UserError: it waits or runs already.
    """
    if waiting := queued(directory):
        jobs = ", ".join(f"{job.job} ({job.state.lower()})" for job in waiting)
        raise UserError(
            f"{directory}: job {jobs} is this run already; see tools.launch status, or stop it first"
        )
