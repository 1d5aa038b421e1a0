"""Tells the watchdog that training goes on."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.run_directory import RunDirectory
from recipes.training.watchdog import Watchdog


class Hang(Callback):
    """Ends a run with exit code 5 in which no step and no batch of held-out text ends any more.

    Args:
        timeout_s: so long may each take, with saves and samples after it.
    """

    def __init__(self, timeout_s: float, directory: RunDirectory, rank: int) -> None:
        log = directory.path / "logs" / f"hang_rank_{rank}.txt"
        self.watchdog = Watchdog(timeout_s, log, f"rank {rank}")

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
