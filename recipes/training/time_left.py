"""How long a run will still take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

WINDOW = 20
"""Logged steps whose speed counts."""


@dataclass
class TimeLeft:
    """Estimates the time left from the speed of the last steps and the pauses that are still to come.

    A pause is whatever is not training: a validation, a save, samples. What comes before the process has done
    its first step (compilation, filling of caches) does not count.

    Args:
        total_steps: of the whole run.
        every: for each kind of pause, after how many steps there is one; None: it is not repeated.
        work: what the first so many steps have to do, in any unit; as it is, all have the same.
    """

    total_steps: int
    every: Mapping[str, int | None]
    work: Callable[[int], float] = float
    _steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=WINDOW + 1))
    _paused_s: float = 0.0
    _last_pause_s: dict[str, float] = field(default_factory=dict)

    def step_ended(self, step: int, now: float) -> None:
        """To be called for the first step of the process and each that is logged; ``now`` in seconds."""
        self._steps.append((step, now - self._paused_s))

    def paused(self, kind: str, seconds: float) -> None:
        """To be called after a pause."""
        self._paused_s += seconds
        self._last_pause_s[kind] = seconds

    def seconds(self) -> float | None:
        """From the last step on; None as long as no speed is known."""
        if len(self._steps) < 2:
            return None
        (first, began), (step, now) = self._steps[0], self._steps[-1]
        if step == first:
            return None
        done, to_do = self.work(step) - self.work(first), self.work(self.total_steps) - self.work(step)
        left = to_do * (now - began) / done
        for kind, lasts in self._last_pause_s.items():
            every = self.every.get(kind)
            if every:
                left += (self.total_steps // every - step // every) * lasts
        return left
