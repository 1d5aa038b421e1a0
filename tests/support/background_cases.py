"""Runs whose checkpoint writer is held back, refused by the disk, or killed in the middle."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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


@contextmanager
def held_until(step: int) -> Iterator[list[int]]:
    """Writers wait until training has done ``step``, waits for them or abandons them; how many saves were
    under way each time.
    """
    from recipes.checkpoint.save.background import BackgroundSave
    from recipes.checkpoint.save.sharded_save import ShardedSave
    from recipes.training.callbacks.checkpoints import Checkpoints

    gate, under_way = threading.Event(), []
    finish, cancel = BackgroundSave.finish, ShardedSave.cancel
    after_step: Any = Checkpoints.on_train_batch_end

    def finished(self: Any, *, wait: bool) -> Path | None:
        if wait and self.pending:
            under_way.append(self.pending)
            gate.set()
        return finish(self, wait=wait)

    def cancelled(self: Any) -> None:
        cancel(self)
        gate.set()

    def at_step(self: Any, trainer: Any, *args: Any) -> None:
        pending = trainer.strategy.background._pending
        if pending and trainer.global_step == step:
            under_way.append(len(pending))
            gate.set()
            pending[-1].writer.join()
        after_step(self, trainer, *args)

    with (
        before_writing(lambda _: only_open(gate)),
        replaced(BackgroundSave, "finish", finished),
        replaced(ShardedSave, "cancel", cancelled),
        replaced(Checkpoints, "on_train_batch_end", at_step),
    ):
        yield under_way


NEVER = 10**9


def held_until_case(
    overrides: list[str], step: int, faults: str = "", limits: dict[int, int] | None = None
) -> tuple[Outcome, list[int]]:
    """A run with :func:`held_until`, in which things may go wrong; ``limits``: rank -> bytes of a file."""
    limit = (limits or {}).get(int(os.environ["RANK"]))
    with held_until(step) as under_way, patch.dict(os.environ, {VARIABLE: faults}):
        return run_case(overrides, limit), under_way


def abandoned_case(overrides: list[str], step: int) -> tuple[int, bool]:
    """A run that ends by an exception before ``step`` on every rank: how many saves were under way, and
    whether a writer lives on.
    """
    from recipes.checkpoint.save.background import BackgroundSave
    from recipes.training.callbacks.faults import InjectedError

    abandoned, abandon = 0, BackgroundSave.abandon

    def counted(self: Any) -> None:
        nonlocal abandoned
        abandoned += self.pending
        abandon(self)

    faults = "; ".join(f"exception:rank={rank},step={step}" for rank in range(int(os.environ["WORLD_SIZE"])))
    with replaced(BackgroundSave, "abandon", counted), suppress(InjectedError):
        held_until_case(overrides, NEVER, faults)
        raise AssertionError("it was to end by an exception")
    return abandoned, any(thread.name == WRITER for thread in threading.enumerate())


def crowded_case(overrides: list[str], short_of_memory: int) -> tuple[Outcome, int, int]:
    """A run whose saves are written when training waits for them; how many saves were under way, and writers
    at work, at most.

    Args:
        short_of_memory: the rank on whose node there is only room for the copies of one save.
    """
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from recipes.checkpoint.save import host
    from recipes.checkpoint.save.background import BackgroundSave

    under_way, at_work, waited_for = [0], [0], threading.Semaphore(0)
    start, finish = BackgroundSave.start, BackgroundSave.finish
    write = FileSystemWriterAsync.write_preloaded_data

    def counted(self: Any, *args: Any) -> None:
        start(self, *args)
        under_way.append(self.pending)

    def finished(self: Any, *, wait: bool) -> Path | None:
        if wait and self.pending:
            waited_for.release()
        return finish(self, wait=wait)

    def late(*args: Any, **named: Any) -> None:
        at_work.append(at_work[-1] + 1)
        assert waited_for.acquire(timeout=240)
        write(*args, **named)
        at_work.append(at_work[-1] - 1)

    little = int(os.environ["RANK"]) == short_of_memory
    free = (lambda *_: 1000) if little else host.free_bytes
    with (
        replaced(BackgroundSave, "start", counted),
        replaced(BackgroundSave, "finish", finished),
        replaced(FileSystemWriterAsync, "write_preloaded_data", staticmethod(late)),
        replaced(host, "free_bytes", free),
    ):
        return run_case(overrides), max(under_way), max(at_work)


UNTIL_THE_END = ExitStack()


def stop_from_step_4() -> None:
    """In a process of its own: the writer of step 4 stands in the middle of its file, for ever."""
    UNTIL_THE_END.enter_context(stuck_writer("step_00000004"))


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


@contextmanager
def stuck_writer(name: str) -> Iterator[None]:
    """The writer of a checkpoint stops in the middle of its file, for ever."""
    from recipes.checkpoint.save.sharded_save import ShardedSave

    original = ShardedSave._one_by_one

    def stops(self: Any, tensors: list[Any]) -> Iterator[Any]:
        for place, each in enumerate(original(self, tensors)):
            yield each
            if name in self._label.name and place == 3:
                threading.Event().wait()

    with replaced(ShardedSave, "_one_by_one", stops):
        yield


def main() -> None:
    """``python -m tests.support.background_cases stuck|slow -m recipes.pretrain ...``: the writer of step 8
    is stuck, or all are slow.
    """
    import time

    from recipes.parallel import cpu_stand_in

    cpu_stand_in.install()
    from recipes.config.hydra_app import run_job
    from recipes.pretrain import run

    how, sys.argv = sys.argv[1], ["recipes.pretrain", *sys.argv[4:]]
    with stuck_writer("step_00000008") if how == "stuck" else before_writing(lambda _: time.sleep(1.0)):
        run_job("pretrain", run)


if __name__ == "__main__":
    main()
