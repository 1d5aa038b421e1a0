"""Lightning's training loop for a run that has no step left."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


class EndingLoop(_FitLoop):
    """Trains nothing, and gets to the end of training all the same, where callbacks make what is missing.

    Lightning's own returns before its beginning when it has no step to train.
    """

    @property
    def skip(self) -> bool:
        return False


def end_only(trainer: Trainer) -> None:
    """Before ``trainer.fit`` with a checkpoint of the last step."""
    loop = EndingLoop(trainer, max_epochs=trainer.fit_loop.max_epochs)
    loop.epoch_loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop = loop
