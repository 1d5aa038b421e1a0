"""What jobs and tools print: short lines, progress, and values from strangers made safe to show."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import reprlib
import sys
import time
import warnings
from functools import cache
from typing import Any

NOISY = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "megatron",
    "nemo_logger",
    "nv_one_logger",
    "torch.distributed",
)

# Parts of words in Indian scripts and emoji; everything else that is invisible could forge or hide a line.
_JOINERS = "\u200c\u200d"

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


def say(message: str) -> None:
    """One line on standard output, at once."""
    print(message, flush=True)


def warn(message: str) -> None:
    """One line on standard error, at once."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


@cache
def warn_once(message: str) -> None:
    """The same, once in a job however often it comes up, and not from every worker of a pool."""
    if multiprocessing.parent_process() is None:
        warn(message)


def duration(seconds: float) -> str:
    """``2h05m``, ``3m20s`` or ``45s``."""
    seconds = int(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    if seconds >= 60:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds}s"


def printable(text: str) -> str:
    """`text` on one line, with characters that would steer a terminal written as escapes.

    What tools print comes partly from files of strangers.
    """
    return "".join(
        char
        if char.isprintable() or char in _JOINERS
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def shown(value: Any) -> str:
    """A value from a file for a message: short, however deep or long it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # An integer of more digits than Python prints.
        return f"a huge {type(value).__name__}"


def quiet_libraries() -> None:
    """Warnings and information off, errors on; RECIPES_VERBOSE=1 leaves everything as it is."""
    if os.environ.get("RECIPES_VERBOSE"):
        return
    warnings.filterwarnings("ignore")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


class Progress:
    """A line on stderr: rewritten on a terminal, a new one every ten seconds elsewhere (log files)."""

    def __init__(self, total: int, enabled: bool, unit: str = "MB") -> None:
        self._total, self._enabled, self._done = total, enabled, 0
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._interval = 0.5 if self._terminal else 10.0
        self._written = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._written and self._terminal:
            print(file=sys.stderr)

    def add(self, amount: int, tokens: int | None = None) -> None:
        """Count what has been done, in millionths of the unit; show it if it is time."""
        self._done += amount
        now = time.monotonic()
        if not self._enabled or not self._done or now - self._shown < self._interval:
            return
        self._shown, self._written = now, True
        rate = self._done / (now - self._started)
        left = max(0, math.ceil((self._total - self._done) / rate))
        line = (
            f"{self._done / 1e6:.0f} of {self._total / 1e6:.0f} {self._unit} "
            f"({self._done / self._total:.0%}), "
            f"{'' if tokens is None else f'{tokens} tokens, '}{rate / 1e6:.1f} {self._unit}/s, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
        print(line, end="\r" if self._terminal else "\n", file=sys.stderr, flush=True)
