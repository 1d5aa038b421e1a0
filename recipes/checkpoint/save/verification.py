"""Reads a written checkpoint back and compares it with its manifest while training goes on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from recipes.checkpoint.save.manifest import verify
from recipes.errors import UserError


class _Abandoned(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True)
class Verified:
    """What has been found out about a checkpoint."""

    path: Path
    damage: str
    """The file that differs, in words; empty if none does."""


class BackgroundVerification:
    """At most one checkpoint at a time, in a thread of the rank that asks; without any collective call."""

    def __init__(self) -> None:
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._result: Verified | None = None

    def start(self, path: Path) -> None:
        """Begins to read a published checkpoint; the one before is finished."""
        assert self._thread is None, "the earlier verification is finished first"
        self._result = None
        self._abandoned.clear()
        self._thread = threading.Thread(target=self._run, args=(path,), name="verification", daemon=True)
        self._thread.start()

    def finish(self, *, wait: bool) -> Verified | None:
        """The result, if there is one (``wait``: once there is); None if nothing was started."""
        if self._thread is None or (not wait and self._thread.is_alive()):
            return None
        self._thread.join()
        self._thread = None
        return self._result

    def abandon(self) -> None:
        """Ends the thread without a result."""
        self._abandoned.set()
        self.finish(wait=True)

    def _run(self, path: Path) -> None:
        try:
            verify(path, from_disk=True, seen=self._go_on)
            self._result = Verified(path, "")
        except UserError as error:
            self._result = Verified(path, str(error))
        except _Abandoned:
            pass

    def _go_on(self, _: int) -> None:
        if self._abandoned.is_set():
            raise _Abandoned
