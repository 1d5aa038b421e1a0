"""Validation after the last step, and the progress of every validation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.console import Progress


class FinalValidation(Callback):
    """Also validates after the last step, unless the interval has just done so.

    Args:
        validated_step: the last one of which the run has a validation from before; -1: none.
    """

    def __init__(self, validated_step: int) -> None:
        self.validated_step = validated_step

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.limit_val_batches or self.validated_step == trainer.global_step:
            return
        # As Lightning's own training loop does between two steps.
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


class ValidationProgress(Callback):
    """Shows how far a validation is."""

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        batches = int(sum(trainer.num_val_batches))
        self.progress = Progress(batches, "batch", label="validation", enabled=trainer.is_global_zero)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.progress.add(1)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.progress.close()
