"""Local checkpoints: every rank writes its part to its node's disk, and a copy goes to the next node."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from recipes.checkpoint.local.exchange import exchange
from recipes.checkpoint.local.files import COMMON, TENSORS, LocalDirectory, Part
from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.ranks import all_agree, gathered
from recipes.config.world import World
from recipes.errors import UserError

ADVICE = "training goes on, and the local checkpoint before it stays"


@dataclass(frozen=True)
class Saved:
    """How a local save has ended, on all ranks."""

    step: int
    failures: list[str]
    """One line of each rank that could not write; on the first rank."""


@dataclass
class _Pending:
    step: int
    writer: threading.Thread
    failure: UserError | None = None


class LocalSaves:
    """At most one save under way, written by a thread of each rank. All ranks call all methods together.

    Copies travel over a process group of their own, so that they cannot mix with training's messages.

    Args:
        directory: this node's.
        world: which processes are on a node follows from its ``local_size``.
        copies: whether the next node gets a copy of every part; without effect on a single node.
    """

    def __init__(self, directory: LocalDirectory, world: World, layout: str, *, copies: bool) -> None:
        self.directory, self.world, self.layout = directory, world, layout
        self.copies = copies and world.size > world.local_size
        self._group = dist.new_group(backend="gloo") if self.copies else None
        self._pending: _Pending | None = None

    @property
    def pending(self) -> bool:
        """Whether a save has been started and not finished."""
        return self._pending is not None

    def start(self, step: int, plain: Mapping[str, Any], state: dict[str, Any], after: int) -> None:
        """Begins to write ``state``, which nobody else changes, and ``plain`` data that all ranks share."""
        assert self._pending is None, "the earlier save is finished first"
        pending = _Pending(step, threading.Thread())
        pending.writer = threading.Thread(
            target=self._run, args=(pending, plain, state, after), name="local checkpoint", daemon=True
        )
        self._pending = pending
        pending.writer.start()

    def finish(self, *, wait: bool) -> Saved | None:
        """How the save has ended, if all ranks have ended it (``wait``: once they have); else None.

        If all have succeeded, the steps before it are deleted.
        """
        if self._pending is None:
            return None
        if not wait and not all_agree(not self._pending.writer.is_alive()):
            return None
        pending, self._pending = self._pending, None
        pending.writer.join()
        failures = [f"rank {rank}: {each}" for rank, each in enumerate(gathered(pending.failure)) if each]
        if all_agree(pending.failure is None) and self.world.local_rank == 0:
            self.directory.delete_others(pending.step)
        return Saved(pending.step, failures)

    def _run(self, pending: _Pending, plain: Mapping[str, Any], state: dict[str, Any], after: int) -> None:
        part = Part(pending.step, self.world.rank, self.layout, after)
        place = self.directory.place(part.rank, part.step)
        pending.failure = failure_of(lambda: self._write(part, plain, state), place, ADVICE)
        if self._group is None:
            return
        sent = part if pending.failure is None else None
        failure = failure_of(lambda: self._copy(sent, pending), place, ADVICE)
        pending.failure = pending.failure or failure

    def _write(self, part: Part, plain: Mapping[str, Any], state: dict[str, Any]) -> None:
        partial = self.directory.new_partial(part.rank, part.step)
        for name, content in ((COMMON, dict(plain)), (TENSORS, state)):
            with (partial / name).open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        self.directory.publish(part, partial)

    def _copy(self, part: Part | None, pending: _Pending) -> None:
        """To the rank of the same number on the next node, from that on the node before."""
        size, per_node = self.world.size, self.world.local_size
        to, source = (self.world.rank + per_node) % size, (self.world.rank - per_node) % size
        # Whoever has no part itself still takes the other one's.
        flag = torch.tensor([int(part is not None)])
        other = torch.zeros_like(flag)
        works: list[Any] = [dist.isend(flag, to, group=self._group)]
        works.append(dist.irecv(other, source, group=self._group))
        for each in works:
            each.wait()
        failure = exchange(self.directory, part, to, source if other.item() else None, self._group)
        pending.failure = pending.failure or failure
