"""Saves that a thread writes while training goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.between import BetweenSaves
from recipes.checkpoint.save.disk import NOTHING_LEFT
from recipes.checkpoint.save.publish import discard_partial, new_partial, publish
from recipes.checkpoint.save.ranks import all_agree
from recipes.checkpoint.save.sharded_save import ShardedSave


@dataclass(frozen=True)
class _Pending:
    directory: Path
    partial: Path
    facts: Mapping[str, Any]
    save: ShardedSave
    writer: threading.Thread


class BackgroundSave:
    """At most one save under way. All methods but :meth:`abandon` and :meth:`hold_back` are called by
    all ranks together.

    The thread makes no collective calls: they would mix with training's. What ranks have to agree on waits
    for :meth:`finish`, in the thread that trains. A process of its own would need a second copy of the state
    in shared memory, and something to end it when we are killed.
    """

    def __init__(self, between: BetweenSaves) -> None:
        self._between = between
        self._pending: _Pending | None = None

    @property
    def pending(self) -> bool:
        """Whether a save has been started and not finished."""
        return self._pending is not None

    def start(self, directory: Path, state: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Begins to write a sharded state dict; ``directory`` appears when :meth:`finish` says so.

        The state may change once :meth:`hold_back` has been called.

        Raises:
            UserError: the disk refuses. Every rank raises it.
        """
        assert self._pending is None, "the earlier save is finished first"
        partial = new_partial(directory, NOTHING_LEFT)
        save = ShardedSave(state, partial, directory, NOTHING_LEFT, copied=True, between=self._between)
        writer = threading.Thread(target=save.write, name="checkpoint writer")
        self._pending = _Pending(directory, partial, facts, save, writer)
        writer.start()

    def hold_back(self) -> None:
        """Called before weights and optimizer state change: a GPU makes the copies of both first."""
        if self._pending is not None:
            self._pending.save.hold_back()

    def finish(self, *, wait: bool) -> Path | None:
        """The checkpoint, if all ranks have written it (``wait``: once they have); else None.

        Raises:
            UserError: a rank could not write; nothing is left behind. Every rank raises it.
        """
        if self._pending is None:
            return None
        if not wait and not all_agree(not self._pending.writer.is_alive()):
            return None
        pending, self._pending = self._pending, None
        pending.writer.join()
        publish(pending.save, pending.partial, pending.directory, pending.facts)
        return pending.directory

    def abandon(self) -> None:
        """Ends this rank's writer; what it has written does not become a checkpoint."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.save.cancel()
        pending.writer.join()
        # Another rank may still be writing: what stays is removed by the next start.
        discard_partial(pending.partial)
