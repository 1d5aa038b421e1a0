"""One save in megatron-core's torch_dist format, in three stages.

All ranks plan it together, every rank writes its own files, all finish it together. The middle stage makes no
collective call, so it may run in a thread while training goes on.
"""

from __future__ import annotations

import io
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from recipes.checkpoint.save.between import BetweenSaves
from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.host import HostCopies, memory_of
from recipes.checkpoint.save.manifest import describe_file
from recipes.checkpoint.save.ranks import gathered, raise_together
from recipes.errors import UserError

BACKEND, VERSION = "torch_dist", 1
VALIDATED_UP_TO = 64
"""Ranks. That every part of a tensor is saved by one of them is checked where that costs nothing."""
Files = Mapping[str, dict[str, Any]]
"""Name -> the manifest's entry."""


class Cancelled(Exception):
    """The save was cancelled before everything was written."""


@dataclass
class Written:
    """What a rank has written."""

    results: list[WriteResult] = field(default_factory=list)
    """Where in which file every tensor lies, for ``.metadata``."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    """It took."""


class _Planner(TorchDistSaveShardedStrategy):
    """Plans as megatron-core does, and keeps what the later stages need."""

    writer: FileSystemWriterAsync
    metadata: Metadata | None

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, planned: Any) -> AsyncRequest:
        self.writer, self.metadata = writer, planned[1]
        return super()._get_save_and_finalize_callbacks(writer, planned)


class ShardedSave:
    """A planned save of ``state`` into ``directory``, which exists; made by all ranks together.

    Args:
        state: A sharded state dict.
        directory: Where the files go.
        label: What messages call the save.
        advice: What messages end with.
        copied: Copy the tensors that training goes on to change.
        between: How data-parallel ranks share what all of them have, and the plan of the save before. Without
            it the first of them writes it, and the save is planned anew.
    """

    def __init__(
        self,
        state: dict[str, Any],
        directory: Path,
        label: Path,
        advice: str,
        *,
        copied: bool,
        between: BetweenSaves | None = None,
    ) -> None:
        self._directory, self._label, self._advice = directory, label, advice
        self._cancelled = threading.Event()
        if filesystem_async._results_queue is None:
            # megatron-core's own queue lives in a manager process, which outlives this one if it is killed.
            filesystem_async._results_queue = queue.Queue()
        # It compares what all ranks have on all ranks: 0.5 GB of objects on each of 4,096, at every save.
        validate = dist.get_world_size() <= VALIDATED_UP_TO
        sharded, common = save_preprocess(state, validate)
        planner = _Planner(BACKEND, VERSION, thread_count=1)
        if between is not None:
            between.shares.apply(sharded)
            between.plan.offer(planner, sharded)
        planner.async_save(sharded, directory)
        if between is not None:
            between.plan.keep(planner, planner.metadata)
        self._writer, self._metadata = planner.writer, planner.metadata
        # The dictionaries in it change with the next step, so they are serialized now.
        self._common = _pickled(common) if dist.get_rank() == 0 else None
        # `sharded` is still alive, so no copy in the plan can have one of these addresses by chance.
        live = _storages(sharded) if copied else set()
        self._copies = HostCopies()
        self._written = Written()
        self._failure = self._attempt(lambda: self._to_host(live))
        buckets = self._writer.write_buckets
        self.host_memory = sum(memory_of(each) for _, _, (_, tensors) in buckets for _, each in tensors)
        """Bytes that the copies take until they are written."""
        self.seconds = 0.0
        """Rank 0: that writing and publishing have taken, by the slowest rank."""

    def hold_back(self) -> None:
        """Called before the tensors that are saved change: a GPU finishes the copies first."""
        self._copies.hold_back()

    def write(self) -> None:
        """Writes and hashes this rank's files. :meth:`finish` raises what goes wrong."""
        started = time.monotonic()
        self._failure = self._failure or self._attempt(self._write_all)
        self._written.seconds = time.monotonic() - started

    def cancel(self) -> None:
        """Makes :meth:`write`, which runs in another thread, stop at the next tensor."""
        self._cancelled.set()

    def finish(self, publish: Callable[[Files], None] = lambda _: None) -> None:
        """Makes the written files a checkpoint; called by all ranks together, each after its :meth:`write`.

        Args:
            publish: Called on rank 0 at the end, with the entries of what all ranks wrote.

        Raises:
            UserError: a rank could not write. Every rank raises it.
        """
        outcomes = gathered(self._failure or self._written)
        failure = next((outcome for outcome in outcomes if isinstance(outcome, UserError)), None)
        if outcomes and failure is None:
            failure = self._attempt(lambda: self._complete(outcomes, publish))
        raise_together(failure)

    def _attempt(self, action: Callable[[], None]) -> UserError | None:
        return failure_of(action, self._label, self._advice)

    def _to_host(self, live: set[int]) -> None:
        """Begins to copy from the GPU, and from memory that training changes (``live``: its addresses)."""
        for _, _, (_, tensors) in self._writer.write_buckets:
            for place, (item, tensor) in enumerate(tensors):
                if tensor.device.type != "cpu" or tensor.untyped_storage().data_ptr() in live:
                    tensors[place] = (item, self._copies.copy(tensor))

    def _write_all(self) -> None:
        self._copies.wait()
        if self._common is not None:
            path = self._directory / COMMON_STATE_FNAME
            with path.open("wb") as file:
                file.write(self._common)
                file.flush()
                os.fsync(file.fileno())
            self._written.files[path.name] = describe_file(path)
        for path, name, (data, tensors) in self._writer.write_buckets:
            # megatron-core runs this in a forked process and gets its result through the first queue.
            results: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
            running: queue.Queue[int] = queue.Queue()
            running.put(0)
            bucket = (path, name, (data, self._one_by_one(tensors)))
            FileSystemWriterAsync.write_preloaded_data(
                [self._writer.transforms], 0, bucket, results, running, use_fsync=True
            )
            _, written = results.get()
            if isinstance(written, Exception):
                raise written
            self._written.results += written
            self._written.files[name] = describe_file(Path(path))

    def _one_by_one(self, tensors: list[tuple[WriteItem, Tensor]]) -> Iterator[tuple[WriteItem, Tensor]]:
        """In order; the memory of each is released once it is written."""
        waiting = deque(tensors)
        tensors.clear()
        while waiting:
            if self._cancelled.is_set():
                raise Cancelled
            yield waiting.popleft()

    def _complete(self, outcomes: list[Written], publish: Callable[[Files], None]) -> None:
        started = time.monotonic()
        self._writer.finish(self._metadata, [written.results for written in outcomes])
        save_config(CheckpointingConfig(BACKEND, VERSION), str(self._directory))
        publish({name: entry for written in outcomes for name, entry in written.files.items()})
        self.seconds = max(written.seconds for written in outcomes) + time.monotonic() - started


def write_sharded(state: dict[str, Any], directory: Path, label: Path, advice: str) -> None:
    """Writes a sharded state dict into ``directory``, in megatron-core's torch_dist format.

    Raises:
        UserError: the disk refuses. Every rank raises it.
    """
    save = ShardedSave(state, directory, label, advice, copied=False)
    save.write()
    save.finish()


def _pickled(common: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(common, buffer)
    return buffer.getvalue()


def _storages(sharded: dict[str, Any]) -> set[int]:
    shards = [shard for shard in nested_values(sharded) if isinstance(shard, ShardedTensor)]
    return {shard.data.untyped_storage().data_ptr() for shard in shards if shard.data is not None}
