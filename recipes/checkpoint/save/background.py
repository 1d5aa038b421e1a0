"""Saves that a thread writes while training goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.between import BetweenSaves
from recipes.checkpoint.save.disk import NOTHING_LEFT
from recipes.checkpoint.save.host import room_for_copies
from recipes.checkpoint.save.publish import discard_partial, new_partial, publish
from recipes.checkpoint.save.ranks import all_agree
from recipes.checkpoint.save.sharded_save import ShardedSave
from recipes.errors import UserError
from recipes.plan.saves import MOST_UNDER_WAY


@dataclass(frozen=True)
class _Pending:
    directory: Path
    partial: Path
    facts: Mapping[str, Any]
    save: ShardedSave
    writer: threading.Thread


class BackgroundSave:
    """A few saves under way, written and published in their order. All methods but :meth:`abandon`,
    :meth:`hold_back` and :meth:`unwritten` are called by all ranks together.

    The threads make no collective calls: they would mix with training's. What ranks have to agree on waits
    for :meth:`finish`, in the thread that trains. A process of its own would need a second copy of the state
    in shared memory, and something to end it when we are killed.
    """

    def __init__(self, between: BetweenSaves) -> None:
        self._between = between
        self._pending: deque[_Pending] = deque()
        self.most_pending = 0
        """So many there have been at a time."""
        self.seconds = 0.0
        """Rank 0: that the newest checkpoint took to write and to publish, without waiting for its turn."""

    @property
    def pending(self) -> int:
        """How many saves have been started and not finished."""
        return len(self._pending)

    def fits_in_memory(self, processes: int) -> bool:
        """Whether every node, of so many processes, has room for the copies of one more save beside these."""
        size = self._pending[-1].save.host_memory
        return all_agree(room_for_copies(size, processes, again=self.most_pending > 1))

    def unwritten(self, size: int) -> int:
        """Bytes that these saves have still to write, if each becomes so large."""
        return sum(max(0, size - _written(each.partial)) for each in self._pending)

    def start(self, directory: Path, state: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Begins to write a sharded state dict; ``directory`` appears when :meth:`finish` says so.

        The state may change once :meth:`hold_back` has been called.

        Raises:
            UserError: the disk refuses. Every rank raises it.
        """
        assert self.pending < MOST_UNDER_WAY, "an earlier save is finished first"
        partial = new_partial(directory, NOTHING_LEFT)
        save = ShardedSave(state, partial, directory, NOTHING_LEFT, copied=True, between=self._between)
        before = self._pending[-1].writer if self._pending else None
        writer = threading.Thread(target=_write, args=(save, before), name="checkpoint writer")
        self._pending.append(_Pending(directory, partial, facts, save, writer))
        self.most_pending = max(self.most_pending, self.pending)
        writer.start()

    def hold_back(self) -> None:
        """Called before weights and optimizer state change: a GPU makes the copies of both first."""
        for each in self._pending:
            each.save.hold_back()

    def finish(self, *, wait: bool) -> Path | None:
        """The checkpoint of the oldest save, if all ranks have written it (``wait``: once they have); else
        None.

        Raises:
            UserError: a rank could not write; nothing is left behind, of later saves either. Every rank
                raises it.
        """
        if not self._pending:
            return None
        if not wait and not all_agree(not self._pending[0].writer.is_alive()):
            return None
        oldest = self._pending.popleft()
        oldest.writer.join()
        try:
            publish(oldest.save, oldest.partial, oldest.directory, oldest.facts)
        except UserError:
            self._end_writers()
            all_agree(True)  # Nobody writes any more.
            self._discard()
            raise
        self.seconds = oldest.save.seconds
        return oldest.directory

    def abandon(self) -> None:
        """Ends this rank's writers; what they have written does not become a checkpoint."""
        self._end_writers()
        # Another rank may still be writing: what stays is removed by the next start.
        self._discard()

    def _end_writers(self) -> None:
        for each in self._pending:
            each.save.cancel()
        for each in self._pending:
            each.writer.join()

    def _discard(self) -> None:
        while self._pending:
            discard_partial(self._pending.popleft().partial)


def _written(partial: Path) -> int:
    try:
        return sum(file.stat().st_size for file in partial.iterdir())
    except OSError:  # Where the disk cannot say, nothing is taken to be written.
        return 0


def _write(save: ShardedSave, before: threading.Thread | None) -> None:
    """Once the save before is written: a disk is not faster for two."""
    if before is not None:
        before.join()
    save.write()
