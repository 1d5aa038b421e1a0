"""How far a long run over files is, and when it will be done."""

import math
import sys
import time


class Progress:
    """A line on stderr: rewritten on a terminal, a new one every ten seconds elsewhere (log files)."""

    def __init__(self, total: int, enabled: bool, unit: str = "MB") -> None:
        self._total, self._enabled, self._done = total, enabled, 0
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._interval = 0.5 if self._terminal else 10.0
        self._written = False

    def __enter__(self) -> "Progress":
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
