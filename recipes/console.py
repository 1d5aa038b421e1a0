"""Output of jobs and tools: short lines, progress, and untrusted values made safe to show."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import reprlib
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, TextIO

from tqdm import tqdm

NOISY = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "megatron",
    "nemo_logger",
    "nv_one_logger",
    "torch.distributed",
    "torch.utils.cpp_extension",  # On a login node: CUDA is installed, and there is no GPU.
)

# Seconds between two updates of a progress bar, and before the first.
TERMINAL_INTERVAL_S, LOG_INTERVAL_S = 0.5, 10.0
LIVE_BAR = 10
"""Characters of a live line's bar."""
LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"
AT_FIRST = {
    None: "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
    LOG_FORMAT: "{desc}: {n_fmt}/{total_fmt} ({percentage:.0f}%){postfix}",
}
"""Of a bar's format (None: tqdm's own), what stands in its place before there is a rate."""

# Parts of words in Indian scripts and emoji; everything else that is invisible could forge or hide a line.
_JOINERS = "\u200c\u200d"

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


def say(message: str) -> None:
    """One line on standard output, at once."""
    _write(message, sys.stdout)


def warn(message: str) -> None:
    """One line on standard error, at once."""
    note(f"warning: {message}")


def note(message: str) -> None:
    """The same without a prefix: why a program ends, or how far a tool is."""
    _write(message, sys.stderr)


def _write(line: str, stream: TextIO) -> None:
    """A run must not fail because its output is lost: a closed terminal, a full disk under a log."""
    try:
        with LiveLine.hidden(stream):
            # In one piece: in a Slurm job several processes write to the same log.
            stream.write(f"{line}\n")
            stream.flush()
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Discards what is written from now on, including by the interpreter's own flush at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


@cache
def warn_once(message: str) -> None:
    """The same, but only once per job, and not from every worker of a pool."""
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

    Some of what tools print comes from untrusted files.
    """
    return "".join(
        char
        if char.isprintable() or char in _JOINERS
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def on_terminal(text: str) -> str:
    """`text` with its lines and tabs; other characters that would steer a terminal as escapes.

    Only where one reads it: a pipe or a file gets every character.
    """
    if not sys.stdout.isatty():
        return text
    return "".join(char if char in "\n\t" else printable(char) for char in text)


def shown(value: Any) -> str:
    """A value from a file, for a message: short, however deep or long the value is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # An integer of more digits than Python prints.
        return f"a huge {type(value).__name__}"


def quiet_libraries() -> None:
    """Turns warnings and information off, keeps errors; RECIPES_VERBOSE=1 leaves everything on."""
    if os.environ.get("RECIPES_VERBOSE"):
        return
    warnings.filterwarnings("ignore")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


class _Bar(tqdm):
    """tqdm's bar without its monitor thread, as each of our updates checks the clock, and without its default
    lock, which is a semaphore between processes."""

    monitor_interval = 0

    @property
    def format_dict(self) -> dict[str, Any]:
        """What is shown; until something has been done, without the rate and the time left."""
        known: dict[str, Any] = super().format_dict
        if self.n == self.initial and self.bar_format in AT_FIRST:
            known["bar_format"] = AT_FIRST[self.bar_format]
        return known


_Bar.set_lock(threading.RLock())


class _Lines(_Bar):
    """A whole line per update, for logs: a line rewritten with carriage returns is unreadable there."""

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        def print_line(text: str) -> None:
            _write(text, file)

        return print_line

    def moveto(self, n: int) -> None:
        """Does nothing: a log has no cursor."""

    def clear(self, nolock: bool = False) -> None:
        """Does nothing: written lines stay."""

    def close(self) -> None:
        # tqdm clears what it has shown, with a carriage return, unless its initial delay is not yet over.
        self.delay = math.inf
        super().close()


class LiveLine:
    """The last line of a terminal, with a bar, written anew in place; whatever is said goes above it.

    Only where :func:`in_terminal`.

    Args:
        total, done: how much there is to do, and how much of it was done before.
    """

    _bar: ClassVar[_Bar | None] = None

    def __init__(self, total: int, done: int) -> None:
        LiveLine._bar = _Bar(
            total=total,
            initial=done,
            leave=False,
            mininterval=TERMINAL_INTERVAL_S,
            miniters=0,
            bar_format=f"{{bar:{LIVE_BAR}}}| {{desc}}",
        )

    @property
    def width(self) -> int:
        """Characters that a text can have."""
        return shutil.get_terminal_size().columns - LIVE_BAR - len("| ") - 1

    def show(self, done: int, text: str) -> None:
        """Replaces the line, now or with a later call: not more often than twice a second."""
        bar = LiveLine._bar
        if bar is not None:
            bar.set_description_str(text, refresh=False)
            bar.update(done - bar.n)

    def close(self) -> None:
        """Removes it; may be called again."""
        bar, LiveLine._bar = LiveLine._bar, None
        if bar is not None:
            bar.close()

    @staticmethod
    @contextmanager
    def hidden(stream: TextIO) -> Iterator[None]:
        """For what is written to the stream meanwhile."""
        if LiveLine._bar is None:
            yield
            return
        with _Bar.external_write_mode(stream):
            yield


def in_terminal() -> bool:
    """Whether somebody watches both streams: a line that is rewritten has no place in a file."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class Progress:
    """Shows progress, rate and time left on stderr.

    On a terminal a bar, removed at the end; elsewhere (a Slurm job's log) a line at most every ten seconds.
    Work that takes less than half a second, elsewhere less than ten, prints nothing.

    Args:
        total: how much there is to do; None: :meth:`update_to` sets it.
        unit: "B" (bytes), " tokens", or what is counted one by one, such as "task".
        label: what is being done.
        done: how much of the total was done by earlier runs.
        enabled: whether to show anything.
    """

    def __init__(
        self,
        total: int | None = None,
        unit: str = "B",
        *,
        label: str = "",
        done: int = 0,
        enabled: bool = True,
    ) -> None:
        in_terminal = sys.stderr.isatty()
        self.interval_s = TERMINAL_INTERVAL_S if in_terminal else LOG_INTERVAL_S
        """Seconds between updates that are shown."""
        # With an explicit width, a log's line is not cut to that of the shell ($COLUMNS).
        form: dict[str, Any] = {} if in_terminal else {"bar_format": LOG_FORMAT, "ncols": 1000}
        self._bar = (_Bar if in_terminal else _Lines)(
            total=total,
            unit=unit,
            unit_scale=unit in ("B", " tokens"),
            desc=label,
            initial=done,
            leave=False,
            disable=not enabled,
            delay=self.interval_s,
            mininterval=self.interval_s,
            miniters=0,
            **form,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, whether everything is done or not."""
        self._bar.close()

    def add(self, amount: int, note: str = "") -> None:
        """Count what has been done since the last call; anything beyond the total is ignored.

        Args:
            amount: in the unit.
            note: shown after the time left, from now on.
        """
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        left = math.inf if self._bar.total is None else self._bar.total - self._bar.n
        self._bar.update(min(amount, left))
        if amount >= left > 0:  # Whatever is printed next must not end up beside the bar.
            self._bar.close()

    def update_to(self, done: int, total: int, note: str = "") -> None:
        """Like :meth:`add`, given how much has been done altogether, and of what total."""
        self._bar.total = total
        self.add(done - self._bar.n, note)
