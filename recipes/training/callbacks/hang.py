"""Tells the watchdog that training goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.checkpoint.save.manifest import partial_checkpoints
from recipes.run_directory import RunDirectory
from recipes.training.watchdog import Watchdog


class Hang(Callback):
    """Ends a run with exit code 5 in which no step and no batch of held-out text ends any more.

    Args:
        timeout_s: so long may each take, with samples after it, and without saves while they are written.
    """

    def __init__(self, timeout_s: float, directory: RunDirectory, rank: int) -> None:
        log = directory.path / "logs" / f"hang_rank_{rank}.txt"
        # A save is waited for by all ranks, also by those that have written their own files.
        self.watchdog = Watchdog(
            timeout_s, log, f"rank {rank}", lambda: _saves_are_written(directory.checkpoints, timeout_s)
        )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.watchdog.alive("the start of training")
        self.watchdog.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.watchdog.alive(f"step {trainer.global_step:,}")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.watchdog.alive(f"a batch of held-out text after step {trainer.global_step:,}")

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.watchdog.stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.watchdog.stop()


def _saves_are_written(checkpoints: Path, lately_s: float) -> bool:
    """Whether the files of an unfinished checkpoint have grown lately."""
    since, partials = time.time() - lately_s, partial_checkpoints(checkpoints)
    return any(_changed_at(file) > since for partial in partials for file in partial.glob("*"))


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # Its checkpoint has just been published: that is a sign of life.
        return time.time()
    except OSError:
        return 0.0
