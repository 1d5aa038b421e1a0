"""Ends a run in good order: on a signal, or when its time is up."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from recipes.console import say

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SIGNALLED, OUT_OF_TIME, NO_REASON = 1, 2, 3
REPEAT_S = 5.0


class StopControl(Callback):
    """Ends training after the present step on a signal or when max_time is up; all ranks agree.

    A signal ends a validation too, which may take longer than whoever sent it waits: its partial figures are
    dropped, and the step's checkpoint is written without them.

    A further signal ends the process at once, unless it comes right after the first: Slurm and torchrun may
    deliver one twice.
    """

    def __init__(self, max_seconds: float | None, announce: bool) -> None:
        self.max_seconds, self.announce = max_seconds, announce
        self.stopped_by = 0
        self._signalled_at: float | None = None
        self._previous = {int(number): signal.getsignal(number) for number in STOP_SIGNALS}

    def install(self) -> None:
        """Takes over the stop signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            if self.announce:
                say(f"signal {signal.Signals(number).name}: stopping after this step, then saving")
        elif now - self._signalled_at > REPEAT_S:
            signal.signal(number, self._previous[number] or signal.SIG_DFL)
            signal.raise_signal(number)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()
        # Again: Lightning's own SIGTERM handler, installed since, would leave without saving.
        self.install()
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        out_of_time = self.max_seconds is not None and time.monotonic() - self.started >= self.max_seconds
        reason = SIGNALLED if self._signalled_at is not None else OUT_OF_TIME if out_of_time else 0
        self._stop(self._agreed(reason, trainer), trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        # Not max_time: a run that ends in good order is validated to the end.
        reason = SIGNALLED if self._signalled_at is not None else 0
        if self._agreed(reason, trainer) == SIGNALLED:
            self._stop(SIGNALLED, trainer)
            pl_module.drop_validation()
            raise StopIteration  # To Lightning, the end of the data; the hooks after it still run.

    def _stop(self, reason: int, trainer: Trainer) -> None:
        self.stopped_by = reason
        if reason:
            trainer.should_stop = True
        if reason == SIGNALLED:
            # Lightning validates when it stops early; whoever sends a signal may not wait for that.
            trainer.limit_val_batches = 0

    @staticmethod
    def _agreed(reason: int, trainer: Trainer) -> int:
        """The smallest reason that any rank has, as a signal takes precedence over the clock; 0: none."""
        if trainer.world_size == 1:
            return reason
        first = torch.tensor(reason or NO_REASON, device=trainer.strategy.root_device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return int(first.item()) % NO_REASON
