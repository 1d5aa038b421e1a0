"""When a run saves, and which of its checkpoints it keeps."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from recipes.checkpoint.save.background import BackgroundSave
from recipes.checkpoint.save.manifest import finished_checkpoints, set_aside, step_directory
from recipes.checkpoint.save.ranks import decided_by_first_rank
from recipes.checkpoint.save.retention import VALID_LOSS, Best, forget_missing_best, prune
from recipes.checkpoint.save.verification import BackgroundVerification
from recipes.config.schema import PretrainConfig
from recipes.console import duration, say, warn
from recipes.errors import UserError
from recipes.files import free_bytes, free_space
from recipes.plan.memory import checkpoint_bytes, uses_bf16
from recipes.plan.saves import MOST_UNDER_WAY
from recipes.plan.stop_notice import AT_LEAST, notice_of, too_short
from recipes.training.callbacks.metrics import Metrics
from recipes.training.callbacks.stop import NOT_STOPPED, StopControl
from recipes.training.skipped_steps import GuardError
from recipes.training.strategy import SaveOptions
from recipes.training.valid_loss import mean_loss, record_later


@dataclass
class _Begun:
    """A save that has begun."""

    step: int
    started: float
    stall_s: float = 0.0
    """For which training has waited for it."""


class Checkpoints(Callback):
    """Saves every n steps or minutes and at the end, and keeps the newest, the best and every n-th.

    If a step is also validated, its checkpoint is written after the validation, with the loss in the
    manifest. A validation that a signal interrupted, or the last step's outside of the interval, comes after
    the save: its loss is then put beside the manifest. A save that is written in the background becomes a
    checkpoint at the end of a later step, once all ranks have written their files.
    """

    def __init__(
        self,
        config: PretrainConfig,
        metrics: Metrics,
        directory: Path,
        stop: StopControl,
        *,
        shared_step: int | None,
    ) -> None:
        """``shared_step``: of the newest checkpoint in ``directory``, if there is one."""
        self.metrics = metrics
        self.config, self.directory, self.stop = config.trainer.checkpoint, directory, stop
        self.valid_every = config.trainer.val_check_interval if config.data.valid else None
        setting = self.config.async_save
        self.in_background = torch.cuda.is_available() if setting == "auto" else bool(setting)
        bf16 = uses_bf16(config, on_cuda=torch.cuda.is_available())
        ema = config.trainer.ema.decay is not None
        self.size = checkpoint_bytes(config.model, config.optim, bf16=bf16, ema=ema)
        self.saved_step = self.published_step = -1 if shared_step is None else shared_step
        self.damaged: Path | None = None
        """The last that was damaged as it was written, on rank 0."""
        self.validated_step, self.valid_loss = -1, 0.0
        self.waits_for_validation = False
        self.started = 0.0
        self.under_way: deque[_Begun] = deque()
        """In the background, oldest first."""
        self.warned = False
        self.notice = notice_of(os.environ)
        """Seconds between a stop signal and the end of the job; None: unknown, or warned of already."""
        self.best: Best | None = None
        self.verification = BackgroundVerification()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        assert not self.waits_for_validation, "the previous step was not validated"
        self._finish(trainer, wait=False)
        self._end_verification(trainer, wait=False)
        step, every = trainer.global_step, self.config.every_n_steps
        if self.stop.stopped_by != NOT_STOPPED:
            self.save(trainer)
        elif (every is not None and step % every == 0) or self._time_is_up(trainer):
            self.waits_for_validation = self.valid_every is not None and step % self.valid_every == 0
            if not self.waits_for_validation:
                self._save_if_sound(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        loss = mean_loss(pl_module.valid_metrics)
        if loss is not None:
            self.validated_step, self.valid_loss = trainer.global_step, loss
        if self.waits_for_validation:
            self.waits_for_validation = False
            self._save_if_sound(trainer)
        elif loss is not None and self.saved_step == trainer.global_step:
            self._record_loss(trainer)

    def _record_loss(self, trainer: Trainer) -> None:
        """Of a validation that came after its step's save. If we are killed in it, the next start does it."""
        self._finish(trainer, wait=True)
        if not trainer.is_global_zero:
            return
        self._end_verification(trainer, wait=True)
        path = step_directory(self.directory, trainer.global_step)
        if path not in finished_checkpoints(self.directory):  # Found damaged.
            return
        record_later(path, self.valid_loss)
        self._let_go()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.waits_for_validation = False
        self.save(trainer)
        if self.stop.stopped_by != NOT_STOPPED:
            # A next start will compare the files, and a cluster does not wait for long.
            self.verification.abandon()
        elif self.config.verify == "background":
            self._end_verification(trainer, wait=True)
            if decided_by_first_rank(self.damaged == step_directory(self.directory, trainer.global_step)):
                # Its state is still here; the run would be called done and not have its last steps.
                self.saved_step = -1
                self.save(trainer)
                self._end_verification(trainer, wait=True)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.verification.abandon()
        if not isinstance(exception, GuardError):
            _background(trainer).abandon()
            return
        # All ranks get here, and pending saves are of sound steps.
        try:
            self._finish(trainer, wait=True)
        except UserError as error:  # It must not hide the reason why the run ends.
            warn(str(error))

    def _time_is_up(self, trainer: Trainer) -> bool:
        """Whether every_minutes have passed since the last save began, by the first rank's clock."""
        if self.config.every_minutes is None:
            return False
        passed = time.monotonic() - self.started
        return decided_by_first_rank(passed >= 60 * self.config.every_minutes)

    def _save_if_sound(self, trainer: Trainer) -> None:
        """Saves unless the step was skipped: if all are from now on, no older checkpoint must give way."""
        self.metrics.check_all()
        if not self.metrics.skipped.in_a_row:
            self.save(trainer, in_background=self.in_background)

    def save(self, trainer: Trainer, *, in_background: bool = False) -> None:
        """Writes the current step's checkpoint, or starts to, unless it is already saved."""
        with self.metrics.pause("save"):
            self._save(trainer, in_background)

    def _save(self, trainer: Trainer, in_background: bool) -> None:
        step = trainer.global_step
        self.metrics.check_all()
        if in_background:
            self._wait_for_room(trainer)
        else:
            self._finish(trainer, wait=True)
        if step == self.saved_step:
            return
        self._make_room(trainer)
        path = step_directory(self.directory, step)
        facts = {VALID_LOSS: self.valid_loss} if step == self.validated_step else {}
        self.started = time.monotonic()
        trainer.save_checkpoint(path, storage_options=SaveOptions(facts, in_background))
        begun = _Begun(step, self.started, time.monotonic() - self.started)
        self.saved_step = step
        if in_background:
            self.under_way.append(begun)
        else:
            self._saved(trainer, path, begun, begun.stall_s)

    def _wait_for_room(self, trainer: Trainer) -> None:
        """Until a save in the background may begin."""
        self._finish(trainer, wait=False)
        while self.under_way and (obstacle := self._obstacle(trainer)):
            self._warn_of_waiting(trainer, obstacle)
            self._publish_oldest(trainer, wait=True)

    def _obstacle(self, trainer: Trainer) -> str:
        """What keeps one more save from beginning beside those under way; empty if nothing does. All ranks
        have the same answer.
        """
        background = _background(trainer)
        if background.pending == MOST_UNDER_WAY:
            return f"{MOST_UNDER_WAY} saves are under way"
        if self.config.local.directory is not None:  # Their copies come at any time.
            return "local checkpoints may need the host memory for another"
        if not background.fits_in_memory(trainer.strategy.world.local_size):  # type: ignore[attr-defined]
            return "no host memory for the copies of another"
        free = free_bytes(self.directory) if trainer.is_global_zero else None
        full = free is not None and free < self.size + background.unwritten(self.size)
        return "no room on the disk for another" if decided_by_first_rank(full) else ""

    def _make_room(self, trainer: Trainer) -> None:
        """Deletes old checkpoints, all but the newest if need be, where the disk would not hold the next one.

        Raises:
            GuardError: it still would not. Every rank raises it.
        """
        free = free_bytes(self.directory) if trainer.is_global_zero else None
        if free is not None and free < self.size:
            self._end_verification(trainer, wait=True)  # Or the last one known to be whole might go.
            warn(f"{self.directory}: {free / 1e9:.3g} GB free, a checkpoint takes {self.size / 1e9:.3g} GB")
            self._prune(keep_last=1)
            free = free_bytes(self.directory)
        if decided_by_first_rank(free is not None and free < self.size):
            raise GuardError(
                f"{self.directory}: {free_space(self.directory)}, a checkpoint takes "
                f"{self.size / 1e9:.3g} GB: step {trainer.global_step:,} is not saved. Make room, start again"
            )

    def _prune(self, keep_last: int) -> Best | None:
        """Deletes what the settings let go, on rank 0."""
        return prune(
            self.directory,
            keep_last=keep_last,
            keep_best=self.config.keep_best,
            keep_every_n_steps=self.config.keep_every_n_steps,
        )

    def _warn_of_waiting(self, trainer: Trainer, why: str) -> None:
        if not self.warned and trainer.is_global_zero:
            self.warned = True
            key = "every_n_steps" if self.config.every_n_steps is not None else "every_minutes"
            warn(
                f"trainer.checkpoint.{key}={getattr(self.config, key):,}: the save of step "
                f"{self.under_way[0].step:,} is not written yet, training waits for it ({why}); "
                "save less often"
            )

    def _finish(self, trainer: Trainer, *, wait: bool) -> None:
        """Publishes the background saves that are written (``wait``: all)."""
        while self._publish_oldest(trainer, wait=wait):
            pass

    def _publish_oldest(self, trainer: Trainer, *, wait: bool) -> bool:
        """Whether there was a background save, and it is written."""
        started = time.monotonic()
        path = _background(trainer).finish(wait=wait)
        if path is None:
            return False
        begun = self.under_way.popleft()
        alone = begun.stall_s + _background(trainer).seconds
        begun.stall_s += time.monotonic() - started
        self._saved(trainer, path, begun, alone)
        return True

    def _saved(self, trainer: Trainer, path: Path, begun: _Begun, alone_s: float) -> None:
        """``alone_s``: what the save took, without waiting for its turn or for a step to end."""
        self.published_step = begun.step
        if not trainer.is_global_zero:
            return
        took = time.monotonic() - begun.started
        stall = f", training stood still for {begun.stall_s:.1f} s" if self.in_background else ""
        say(f"saved  {path} in {duration(took)}{stall}")
        self._warn_of_short_notice(alone_s, _background(trainer).most_pending)
        if self.config.verify == "background":
            self._end_verification(trainer, wait=True)
            self.verification.start(path)
        else:
            self._let_go()

    def _warn_of_short_notice(self, save_s: float, under_way: int) -> None:
        if self.notice is None:
            return
        # One that has just begun, with those before it, and the last one.
        if text := too_short(self.notice, save_s, max(AT_LEAST, under_way + 1)):
            warn(text)
            self.notice = None

    def _end_verification(self, trainer: Trainer, *, wait: bool) -> None:
        """Sets the checkpoint aside if it is damaged; older ones may go only if it is not. On rank 0."""
        verified = self.verification.finish(wait=wait)
        if verified is None:
            return
        if verified.damage:
            self.damaged = verified.path
            aside = set_aside(verified.path)
            forget_missing_best(self.directory)
            warn(f"{verified.damage}; {verified.path.name} was damaged as it was written and is now {aside}")
            record = {"step": trainer.global_step, "checkpoint": verified.path.name}
            self.metrics.directory.append_metrics({"event": "damaged_checkpoint", **record})
            return
        self._let_go()

    def _let_go(self) -> None:
        """Deletes the checkpoints that need not stay, on rank 0."""
        best = self._prune(self.config.keep_last)
        if best is not None and best != self.best:
            say(f"best   {best.path.name}, validation loss {best.valid_loss:.4f}")
        self.best = best


def _background(trainer: Trainer) -> BackgroundSave:
    background: BackgroundSave = trainer.strategy.background  # type: ignore[attr-defined]
    return background
