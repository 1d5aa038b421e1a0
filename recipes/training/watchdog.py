"""Ends a process that makes no progress, after it has said where it stands."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from recipes.cli import NO_PROGRESS
from recipes.console import warn

MOST_BETWEEN_LOOKS_S = 5.0
PATIENCE_S = 10.0
"""When one rank ends, the others may fail at once: they must have written their stacks by then."""


class Watchdog:
    """A thread that waits for signs of life of the one that trains.

    Args:
        timeout_s: so long may nothing be heard.
        log: where the stacks of all threads are written to.
        name: of the process, for the message.
    """

    def __init__(self, timeout_s: float, log: Path, name: str) -> None:
        self.timeout_s, self.log, self.name = timeout_s, log, name
        self._heard, self._last = time.monotonic(), "the start"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self, at: str) -> None:
        """A sign of life; ``at``: what has just been done."""
        self._heard, self._last = time.monotonic(), at

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(MOST_BETWEEN_LOOKS_S, self.timeout_s / 4)):
            if time.monotonic() - self._heard > self.timeout_s:
                self._end_process()

    def _end_process(self) -> None:
        since = f"{self.name}: nothing has ended for {self.timeout_s:g} s since {self._last}"
        try:
            with self.log.open("w", encoding="utf-8") as file:
                print(since, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:  # A disk that does not answer may be why nothing goes on.
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        warn(f"{since}; its stacks are in {self.log}; the same command continues from the last checkpoint")
        sys.stderr.flush()
        self._over.wait(min(PATIENCE_S, self.timeout_s))
        os._exit(NO_PROGRESS)  # The thread that trains cannot be asked to leave.
