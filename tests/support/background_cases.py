"""Runs whose checkpoint writer is held back, refused by the disk, or killed in the middle."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from recipes.training.faults import VARIABLE
from tests.support.run_cases import Outcome, run_case

WRITER = "checkpoint writer"


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner.name`` is ``value`` within the block."""
    original = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def before_writing(wait: Callable[[str], None]) -> Iterator[None]:
    """``wait(path)`` is called by the thread that is about to write a file of tensors."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    original = FileSystemWriterAsync.write_preloaded_data

    def delayed(transforms: Any, number: int, bucket: Any, *others: Any, **named: Any) -> None:
        if threading.current_thread().name == WRITER:
            wait(bucket[0])
        original(transforms, number, bucket, *others, **named)

    with replaced(FileSystemWriterAsync, "write_preloaded_data", staticmethod(delayed)):
        yield


def only_open(gate: threading.Event) -> None:
    """Waits for it."""
    assert gate.wait(240), "nobody opened it"


def held_case(overrides: list[str], steps: int) -> tuple[Outcome, int]:
    """A run that writes only when training is ``steps`` further, or waits for the save; and how many were."""
    from recipes.checkpoint.save.background import BackgroundSave
    from recipes.training.callbacks.checkpoints import Checkpoints

    gate, held = threading.Event(), []
    start, finish = BackgroundSave.start, BackgroundSave.finish
    after_step: Any = Checkpoints.on_train_batch_end

    def shut(self: Any, *args: Any) -> None:
        gate.clear()
        start(self, *args)

    def opened(self: Any, *, wait: bool) -> Path | None:
        if wait:
            gate.set()
        return finish(self, wait=wait)

    def at_step(self: Any, trainer: Any, *args: Any) -> None:
        pending = trainer.strategy.background._pending
        if pending and trainer.global_step - self.saved_step == steps:
            if pending[-1].writer.is_alive():  # Not on a rank that has nothing to write.
                held.append(self.saved_step)
            gate.set()
            pending[-1].writer.join()
        after_step(self, trainer, *args)

    with (
        before_writing(lambda _: only_open(gate)),
        replaced(BackgroundSave, "start", shut),
        replaced(BackgroundSave, "finish", opened),
        replaced(Checkpoints, "on_train_batch_end", at_step),
    ):
        return run_case(overrides), len(held)


def late_case(overrides: list[str], steps: int) -> tuple[Outcome, int]:
    """As :func:`held_case`, and copies are made as late as a GPU may make them; and how many were."""
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    import torch

    from recipes.checkpoint.save.background import BackgroundSave
    from recipes.checkpoint.save.host import HostCopies
    from recipes.optim.ema import Ema

    waiting: list[tuple[Any, Any]] = []
    are_made, made, finish = threading.Event(), 0, BackgroundSave.finish

    def copy(_: Any, tensor: Any) -> Any:
        are_made.clear()
        waiting.append((torch.empty_like(tensor), tensor.detach()))
        return waiting[-1][0]

    def make_all(_: Any) -> None:
        nonlocal made
        made += len(waiting)
        while waiting:
            host, tensor = waiting.pop()
            host.copy_(tensor)
        are_made.set()

    def wait(copies: Any) -> None:
        if threading.current_thread().name == WRITER:
            only_open(are_made)
        else:
            make_all(copies)

    def make_and_finish(self: Any, *, wait: bool) -> Path | None:
        if wait:
            make_all(self)
        return finish(self, wait=wait)

    swap = Ema.swap

    def swap_and_make(self: Any) -> None:
        swap(self)
        make_all(self)  # Later, the weights will be back.

    with (
        replaced(Ema, "swap", swap_and_make),
        replaced(HostCopies, "copy", copy),
        replaced(HostCopies, "hold_back", make_all),
        replaced(HostCopies, "wait", wait),
        replaced(BackgroundSave, "finish", make_and_finish),
    ):
        outcome, _ = held_case(overrides, steps)
    return outcome, made


def slow_case(overrides: list[str], seconds: float) -> Outcome:
    """A run whose writers begin so much later."""
    import time

    with before_writing(lambda _: time.sleep(seconds)):
        return run_case(overrides)


def diverging_case(overrides: list[str], step: int) -> Outcome:
    """A slow writer, and a run that ends because its gradients at ``step`` are no numbers."""
    with patch.dict(os.environ, {VARIABLE: f"nan:step={step}"}):
        return slow_case([*overrides, "trainer.guards.max_skipped_steps=1"], 0.5)


def metrics_refused_case(overrides: list[str], step: int) -> tuple[Outcome, bool]:
    """A save under way when metrics cannot be written at ``step``; and whether a writer lives on."""
    from recipes.errors import UserError
    from recipes.run_directory import RunDirectory

    original = RunDirectory.append_metrics

    def refuse(self: Any, record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise UserError("metrics.jsonl: cannot be written")
        original(self, record)

    with replaced(RunDirectory, "append_metrics", refuse):
        outcome = slow_case(overrides, 0.5)
    return outcome, any(thread.name == WRITER for thread in threading.enumerate())


def counted_case(overrides: list[str]) -> tuple[Outcome, int, list[int]]:
    """A run; how often its configuration was written out for a hash; and at each of megatron-core's searches
    for garbage in a save, how many objects were left out.
    """
    import gc

    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from recipes.training import strategy

    hashed, left_out = 0, []
    original, collect = strategy.config_sha256, gc.collect

    def config_sha256(config: Any) -> str:
        nonlocal hashed
        hashed += 1
        return original(config)

    def counted(*args: int) -> int:
        if sys._getframe(1).f_globals["__name__"].endswith("distrib_optimizer"):
            left_out.append(gc.get_freeze_count())
        return collect(*args)

    with replaced(strategy, "config_sha256", config_sha256), replaced(gc, "collect", counted):
        outcome = run_case(overrides)
    return outcome, hashed, left_out


def limited_case(overrides: list[str], rank: int, limit: int) -> Outcome:
    """A run in which no file of one rank may grow beyond so many bytes."""
    return run_case(overrides, limit if os.environ["RANK"] == str(rank) else None)


def unfinished_case(overrides: list[str]) -> Outcome:
    """A run in which rank 0 finds no space for ``.metadata``, after all ranks have written their tensors."""
    from torch.distributed.checkpoint.filesystem import _FileSystemWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with replaced(_FileSystemWriter, "finish", full):
        return run_case(overrides)


def main() -> None:
    """``python -m tests.support.background_cases -m recipes.pretrain ...``: the writer of step 8 stops in the
    middle of its file, for ever.
    """
    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from recipes.checkpoint.save.sharded_save import ShardedSave
    from recipes.config.hydra_app import compose
    from recipes.pretrain import run

    original = ShardedSave._one_by_one

    def stops(self: Any, tensors: list[Any]) -> Iterator[Any]:
        for place, each in enumerate(original(self, tensors)):
            yield each
            if "step_00000008" in self._label.name and place == 3:
                threading.Event().wait()

    with replaced(ShardedSave, "_one_by_one", stops):
        sys.exit(run(compose("pretrain", sys.argv[3:])))


if __name__ == "__main__":
    main()
