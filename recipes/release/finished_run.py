"""The run that is released: whether it is finished, and its newest checkpoint. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.nemo.stored_step import stored_step
from recipes.checkpoint.save.manifest import finished_checkpoints, read_manifest
from recipes.config.lengths import total_steps
from recipes.config.run_directory import recorded_config
from recipes.config.schema import PretrainConfig
from recipes.errors import UserError
from recipes.files import path_errors
from recipes.run_directory import RunDirectory
from recipes.training.run_lock import RunLock


@dataclass(frozen=True)
class FinishedRun:
    """A run of which nothing is being written."""

    directory: RunDirectory
    config: PretrainConfig
    checkpoint: Path
    """The newest."""
    manifest: dict[str, Any]
    """The checkpoint's."""
    step: int
    steps: int
    """Those that the run was to have."""

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def complete(self) -> bool:
        """Whether it has all its steps."""
        return self.step >= self.steps

    @property
    def nemo(self) -> Path | None:
        """Its model.nemo, if that holds the weights of the newest checkpoint."""
        path = self.directory.nemo_file
        return path if path.is_file() and stored_step(path) == self.step else None


@contextmanager
def finished_run(path: Path, *, incomplete: bool = False) -> Iterator[FinishedRun]:
    """Within the context no other process can train the run.

    Args:
        path: the run's directory.
        incomplete: take a run as it is, although steps are left to train.

    Raises:
        UserError: there is no run, it is being trained, or it is not complete.
    """
    directory = RunDirectory(path)
    with path_errors(path):
        config = recorded_config(directory)
        checkpoints = finished_checkpoints(directory.checkpoints)
    if not checkpoints:
        raise UserError(f"{path}: the run has no finished checkpoint, so there is nothing to release")
    lock = RunLock(path)
    lock.acquire(patience_s=0.0)
    try:
        manifest = read_manifest(checkpoints[-1])
        run = FinishedRun(
            directory, config, checkpoints[-1], manifest, int(manifest["step"]), total_steps(config)
        )
        if not run.complete and not incomplete:
            raise UserError(
                f"{path}: the run has {run.step:,} of {run.steps:,} steps; train the rest, or release it "
                "as it is with --incomplete"
            )
        yield run
    finally:
        lock.release()
