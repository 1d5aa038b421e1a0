"""Ending a run in an orderly way: on a signal, or when its time is up."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from recipes.console import say
from recipes.data.samples.worker_signals import STOP_SIGNALS

NOT_STOPPED, SIGNALLED, OUT_OF_TIME = 0, 1, 2
_NO_REASON = OUT_OF_TIME + 1
REPEAT_S = 5.0
"""A signal that comes this soon after the first is taken for the same one."""


class Vote:
    """What all ranks' processes say, over gloo: their devices are not waited for.

    Its result is the smallest reason that any rank has, so a signal takes precedence over the clock.
    """

    def __init__(self, reason: int) -> None:
        self._smallest = torch.tensor(reason or _NO_REASON)
        self._work = dist.all_reduce(self._smallest, op=dist.ReduceOp.MIN, async_op=True)

    def result(self) -> int:
        """Waits until all ranks have voted."""
        assert self._work is not None
        self._work.wait()
        return int(self._smallest.numpy()) % _NO_REASON


class StopControl(Callback):
    """Ends training on a signal or when max_time is over: one rank after the current step, several together
    after the next.

    A signal also ends a validation or a benchmark, which may take longer than the sender waits: their partial
    figures are dropped, and the step's checkpoint is written without them.

    A further signal ends the process at once, unless it comes right after the first: Slurm and torchrun may
    deliver a signal twice.

    Args:
        max_seconds: how long this process may train; None: without limit.
        announce: whether to print a line when a signal arrives.
    """

    def __init__(self, max_seconds: float | None, announce: bool) -> None:
        self.max_seconds, self.announce = max_seconds, announce
        self.stopped_by = NOT_STOPPED
        self.started: float | None = None
        self._signalled_at: float | None = None
        self._vote: Vote | None = None
        # nohup and shells' background jobs make a process ignore the end of its terminal: keep it so.
        self._handled = [
            number
            for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        self._previous = {int(number): signal.getsignal(number) for number in self._handled}

    def install(self) -> None:
        """Takes over the stop signals."""
        for number in self._handled:
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
        if self.started is None:  # Else another trainer in this process has begun.
            self.started = time.monotonic()
        # Again: Lightning's own SIGTERM handler, installed since, would leave without saving.
        self.install()
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.world_size == 1:
            self._stop(self._own_reason(), trainer)
            return
        # What the ranks have said after the step before: their votes travel while they compute.
        before, self._vote = self._vote, Vote(self._own_reason())
        self._stop(before.result() if before is not None else NOT_STOPPED, trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self._vote is None:
            return
        reason, self._vote = self._vote.result(), None
        if self.stopped_by == NOT_STOPPED:
            self._stop(reason, trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        reason = self._reason_to_hurry(trainer)
        if self._stop(Vote(reason).result() if trainer.world_size > 1 else reason, trainer):
            pl_module.drop_validation()
            raise StopIteration  # Lightning takes it for the end of the data and still runs later hooks.

    def is_due(self, trainer: Trainer) -> bool:
        """Whether this rank would end what it does between two steps."""
        return self._reason_to_hurry(trainer) != NOT_STOPPED

    def stop_now(self, trainer: Trainer) -> None:
        """Ends training after this step. To be called on every rank, once any of them is due."""
        reason = self._reason_to_hurry(trainer)
        self._stop(Vote(reason).result() if trainer.world_size > 1 else reason, trainer)

    def _reason_to_hurry(self, trainer: Trainer) -> int:
        reason = self._own_reason()
        return NOT_STOPPED if reason == OUT_OF_TIME and _is_complete(trainer) else reason

    def _own_reason(self) -> int:
        """Why this rank would stop."""
        if self._signalled_at is not None:
            return SIGNALLED
        assert self.started is not None
        if self.max_seconds is not None and time.monotonic() - self.started >= self.max_seconds:
            return OUT_OF_TIME
        return NOT_STOPPED

    def _stop(self, reason: int, trainer: Trainer) -> bool:
        """Stops if there is a reason to; returns whether there is."""
        if reason == OUT_OF_TIME and _is_complete(trainer):
            reason = NOT_STOPPED
        self.stopped_by = reason
        if reason == NOT_STOPPED:
            return False
        trainer.should_stop = True
        # Lightning validates when it stops early; a signal or a time limit leaves no time for that.
        trainer.limit_val_batches = 0
        return True


def _is_complete(trainer: Trainer) -> bool:
    """Whether all steps are trained: then no time limit keeps the run from being measured to the end."""
    return trainer.global_step >= trainer.max_steps
