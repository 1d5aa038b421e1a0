"""Lightning's training loops, where a run that goes on differs from what they expect."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class StepLoop(_TrainingEpochLoop):
    """After a resume, Lightning's own validates first if the checkpoint's step is one to validate.

    That makes up for a validation that a stop signal has ended. Here it is left out where the run has it.

    Args:
        validated_step: the last step of which the run has a validation from before; -1: none.
    """

    def __init__(self, trainer: Trainer, max_steps: int, validated_step: int) -> None:
        super().__init__(trainer, max_steps=max_steps)
        self.validated_step = validated_step

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        if self.restarting and self.trainer.global_step == self.validated_step:
            return False
        due: bool = super()._should_check_val_fx(data_fetcher)
        return due


class EndingLoop(_FitLoop):
    """Trains nothing, and gets to the end of training all the same, where callbacks make what is missing.

    Lightning's own returns before its beginning when it has no step to train.
    """

    @property
    def skip(self) -> bool:
        return False


def set_loops(trainer: Trainer, *, validated_step: int, trained: bool) -> None:
    """Before ``trainer.fit``; ``trained``: its checkpoint is that of the last step."""
    steps = StepLoop(trainer, trainer.max_steps, validated_step)
    if trained:
        trainer.fit_loop = EndingLoop(trainer, max_epochs=trainer.fit_loop.max_epochs)
    trainer.fit_loop.epoch_loop = steps
