"""When a run writes checkpoints to its nodes' own disks."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from recipes.checkpoint.local.files import LocalDirectory
from recipes.checkpoint.local.save import LocalSaves
from recipes.checkpoint.save.ranks import decided_by_first_rank
from recipes.config.trainer_schema import LocalCheckpointConfig
from recipes.config.world import World
from recipes.console import duration, say, warn
from recipes.training.callbacks.checkpoints import Checkpoints
from recipes.training.callbacks.stop import NOT_STOPPED
from recipes.training.skipped_steps import GuardError
from recipes.training.strategy import SaveOptions


class LocalCheckpoints(Callback):
    """Saves every n steps or minutes while training goes on, and deletes all when the run is complete.

    A save that fails costs a warning: the run has its shared checkpoints.

    Args:
        config: when.
        directory: this node's.
        world: the processes.
        layout: see :class:`~recipes.checkpoint.local.files.Part`.
        shared: the callback that writes shared checkpoints; it comes earlier in the list.
    """

    def __init__(
        self,
        config: LocalCheckpointConfig,
        directory: LocalDirectory,
        world: World,
        layout: str,
        shared: Checkpoints,
    ) -> None:
        self.config, self.directory, self.world, self.layout = config, directory, world, layout
        self.shared = shared
        self.started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.started = time.monotonic()
        self.saves = LocalSaves(self.directory, self.world, self.layout, copies=self.config.copies)
        trainer.strategy.local = self.saves  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self._finish(trainer, wait=False)
        step = trainer.global_step
        if self.saves.pending or self.shared.stop.stopped_by != NOT_STOPPED:
            return  # Nothing waits for a local checkpoint: the next one comes soon.
        # After the last step the shared one comes at once.
        if not self._is_due(step) or step in (self.shared.saved_step, trainer.max_steps):
            return
        with self.shared.metrics.pause("local save"):
            self.shared.metrics.check_all()
            if self.shared.metrics.skipped.in_a_row:
                return
            self.started = time.monotonic()
            options = SaveOptions(local_after=self.shared.published_step)
            trainer.save_checkpoint(self.directory.place(self.world.rank, step), storage_options=options)
            self.stall_s = time.monotonic() - self.started

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._finish(trainer, wait=True)
        # A run that was stopped will go on, and may find its last shared checkpoint damaged.
        if self.shared.stop.stopped_by == NOT_STOPPED and self.world.local_rank == 0:
            self.directory.delete()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, GuardError):  # All ranks get here, and may go on after a loss spike.
            self._finish(trainer, wait=True)

    def _is_due(self, step: int) -> bool:
        if self.config.every_n_steps is not None and step % self.config.every_n_steps == 0:
            return True
        if self.config.every_minutes is None:
            return False
        passed = time.monotonic() - self.started
        return decided_by_first_rank(passed >= 60 * self.config.every_minutes)

    def _finish(self, trainer: Trainer, *, wait: bool) -> None:
        saved = self.saves.finish(wait=wait)
        if saved is None or not trainer.is_global_zero:
            return
        if saved.failures:
            warn(f"local checkpoint of step {saved.step:,}: {saved.failures[0]}")
            return
        took = duration(time.monotonic() - self.started)
        say(f"local  step {saved.step:,} in {took}, training stood still for {self.stall_s:.1f} s")
