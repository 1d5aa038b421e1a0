"""Ends a process that makes no progress, after it has said where it stands."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
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
        goes_on: asked when nothing has been heard for so long, whether something goes on all the same.
    """

    def __init__(
        self, timeout_s: float, log: Path, name: str, goes_on: Callable[[], bool] = lambda: False
    ) -> None:
        self.timeout_s, self.log, self.name, self.goes_on = timeout_s, log, name, goes_on
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
            if time.monotonic() - self._heard <= self.timeout_s:
                continue
            if self._in_time(self.goes_on):
                self.alive(self._last)
            else:
                self._end_process()

    def _in_time(self, ask: Callable[[], bool]) -> bool:
        """The answer, or no: a disk that does not answer may be why nothing goes on."""
        answers: list[bool] = []
        asking = threading.Thread(target=lambda: answers.append(ask()), name="watchdog's disk", daemon=True)
        asking.start()
        asking.join(min(PATIENCE_S, self.timeout_s))
        return bool(answers) and answers[0]

    def _write_stacks(self, since: str) -> bool:
        try:
            with self.log.open("w", encoding="utf-8") as file:
                print(since, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            return False
        return True

    def _end_process(self) -> None:
        since = f"{self.name}: nothing has ended for {self.timeout_s:g} s since {self._last}"
        place = str(self.log)
        if not self._in_time(lambda: self._write_stacks(since)):
            place = "the log"
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        warn(f"{since}; its stacks are in {place}; the same command continues from the last checkpoint")
        sys.stderr.flush()
        self._over.wait(min(PATIENCE_S, self.timeout_s))
        os._exit(NO_PROGRESS)  # The thread that trains cannot be asked to leave.
