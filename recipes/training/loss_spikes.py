"""Loss spikes: which loss is one, and what a run remembers of those it has gone back from. No torch here."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spike:
    """A step whose loss is far above those before it."""

    step: int
    loss: float
    mean: float
    """Of the losses before it."""
    zscore: float
    """How many of their standard deviations it is above their mean."""


class SpikeDetector:
    """Compares each step's loss with those of the steps before it.

    Args:
        zscore: from which on a loss is a spike.
        window: how many steps it is compared with; before there are so many, nothing is one.
    """

    def __init__(self, zscore: float, window: int) -> None:
        self.zscore = zscore
        self.losses: deque[float] = deque(maxlen=window)

    def restore(self, losses: Iterable[float]) -> None:
        """The losses of the steps up to a checkpoint."""
        self.losses.clear()
        self.losses.extend(losses)

    def add(self, step: int, loss: float) -> Spike | None:
        """Takes a step's loss into the window, unless it is a spike."""
        if len(self.losses) == self.losses.maxlen:
            mean, deviation = statistics.fmean(self.losses), statistics.stdev(self.losses)
            zscore = (loss - mean) / max(deviation, 1e-12)
            if zscore >= self.zscore:
                return Spike(step, loss, mean, zscore)
        if math.isfinite(loss):
            self.losses.append(loss)
        return None


def samples_left_out(by_hand: list[list[int]], rollbacks: list[dict[str, Any]]) -> list[list[int]]:
    """data.skip's ranges and those of the rollbacks, ascending; ranges that meet are not joined, since a
    checkpoint may lie between them.
    """
    ranges = sorted([*map(list, by_hand), *(list(each["samples"]) for each in rollbacks)])
    joined: list[list[int]] = []
    for first, last in ranges:
        if joined and first <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return joined
