"""Saving while training goes on: megatron-core's asynchronous requests, written by a forked process per rank.

The process sees the memory as it was at the fork (on CUDA: copied to the host right before it), so nothing
that training does later can get into the checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from recipes.checkpoint.disk import NOTHING_LEFT, disk_errors
from recipes.checkpoint.manifest import describe_file
from recipes.checkpoint.publish import failure_of, new_partial, publish

# What ends or stops a run reaches its whole process group; the writer ends with the run, not before.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1
# Looked up before any fork: the dynamic loader is not to be entered after one.
_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


class Report:
    """What a writer process tells the one that forked it, through an unnamed file that both hold open.

    megatron-core's own queue lives in a Manager process, which outlives a killed run. A pipe would block the
    writer's exit once it is full (64 KiB), and its exit is what is waited for.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  Lives as long as the save.
        self.described: dict[str, dict[str, Any]] = {}

    def put(self, outcome: Any, described: dict[str, dict[str, Any]]) -> None:
        """Called by the writer, once: what it wrote or why it could not, and the manifest's entries."""
        pickle.dump((outcome, described), self._file)
        self._file.flush()

    def get_nowait(self) -> Any:
        """The outcome, for megatron-core's writer; the entries are then in :attr:`described`."""
        self._file.seek(0)
        try:
            outcome, self.described = pickle.load(self._file)  # Our own process wrote it.
        except (EOFError, pickle.UnpicklingError):
            outcome = RuntimeError("the writing process ended without a result; was it killed?")
        self._file.close()
        return outcome


@dataclass(frozen=True)
class _Pending:
    directory: Path
    partial: Path
    report: Report
    facts: dict[str, Any]


class BackgroundSave:
    """At most one save in flight. Every method but :meth:`abandon` is collective over all ranks."""

    def __init__(self) -> None:
        self._queue = AsyncCallsQueue()
        self._pending: _Pending | None = None

    @property
    def pending(self) -> bool:
        """Whether a save has been started and not finished."""
        return self._pending is not None

    def start(self, directory: Path, state: dict[str, Any], **facts: Any) -> None:
        """Begins to write a sharded state dict; ``directory`` appears when :meth:`finish` says so.

        The state may change as soon as this returns.

        Raises:
            UserError: the disk refuses.
        """
        assert self._pending is None, "the earlier save is finished first"
        partial = new_partial(directory)
        report = Report()
        self._pending = _Pending(directory, partial, report, facts)
        try:
            with disk_errors(directory, NOTHING_LEFT):
                self._queue.schedule_async_request(_request(state, partial, report))
        except BaseException:
            self.abandon()
            raise

    def finish(self, *, wait: bool) -> Path | None:
        """The checkpoint, if it is written by now on all ranks (``wait``: once it is); None if not yet, or
        if there is none pending.

        Raises:
            UserError: it could not be written; nothing is left behind. Every rank raises it.
        """
        if self._pending is None:
            return None
        directory, partial = self._pending.directory, self._pending.partial
        finished: list[int] = []
        failure = failure_of(
            lambda: finished.extend(self._queue.maybe_finalize_async_calls(blocking=wait)), partial, directory
        )
        if failure is None and not finished:
            return None
        described, facts = self._pending.report.described, self._pending.facts
        self._pending = None
        publish(partial, directory, _from_all_ranks(described), facts, failure)
        return directory

    def abandon(self) -> None:
        """Ends this rank's writer and forgets the save; rank 0 removes what it has written."""
        if self._pending is None:
            return
        for call in self._queue.async_calls:
            process = call.async_caller.process
            if process is not None:
                process.kill()
                process.join()
        self._queue.async_calls.clear()
        if dist.get_rank() == 0:
            shutil.rmtree(self._pending.partial, ignore_errors=True)
        self._pending = None


def _request(state: dict[str, Any], partial: Path, report: Report) -> AsyncRequest:
    """megatron-core's request with a writer of our own: one process instead of two, and no queues."""
    before = filesystem_async._results_queue
    filesystem_async._results_queue = report
    try:
        request = dist_checkpointing.save(
            state,
            str(partial),
            TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1),
            async_sharded_save=True,
        )
    finally:
        filesystem_async._results_queue = before
    assert request is not None
    if request.async_fn is None:  # This rank has nothing to write.
        return request
    transforms = request.async_fn.args[0]
    _, buckets, _ = request.async_fn_args
    return request._replace(
        async_fn=bind(_write, os.getpid()), async_fn_args=[transforms, buckets, report], async_fn_kwargs={}
    )


def _write(parent: int, transforms: list[Any], buckets: list[Any], report: Report) -> None:
    """The forked process: writes and describes this rank's file."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It died before we asked.
            os._exit(1)
    torch.set_num_threads(1)  # OpenMP's threads did not come along.
    outcome: Any
    described = {}
    try:
        (bucket,) = buckets
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        count: queue.Queue[int] = queue.Queue()
        count.put(0)
        FileSystemWriterAsync.write_preloaded_data(transforms, 0, bucket, results, count, use_fsync=True)
        _, written = results.get()
        if isinstance(written, Exception):
            raise written
        outcome = {0: written}
        # Here and not when it is published: training would wait for it.
        described = {bucket[1]: describe_file(Path(bucket[0]))}
    except Exception as error:
        outcome = error
    report.put(outcome, described)


def _from_all_ranks(described: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries of every rank's file, on rank 0."""
    if dist.get_world_size() == 1:
        return described
    gathered: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(described, gathered)
    return {name: entry for each in gathered or [] for name, entry in each.items()}
