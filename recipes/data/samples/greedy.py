"""Megatron's greedy blending rule, computed where it is needed instead of stored for the whole run.

Sample n comes from the source that is furthest behind its share: the largest of share x max(n, 1) - count,
the first of equals. megatron-core's `build_blending_indices` writes that down for all samples at once, from
the first on: 10 bytes each, 18 GB for 1.8 billion. It cannot begin in the middle. The rule can: how many
samples each source has given is all that it remembers.

A window of samples is cut into lanes which numpy takes forward side by side, one sample per lane and step.
What the sources have given before a lane is guessed first: the rule never lets them stray far from their
shares. Lanes that began with a wrong guess are repeated, with what the lane before them ended with, until
every lane begins where the one before it ended. So the result does not rest on the guess, and it is the same,
bit for bit, as sample by sample: the same products and differences of doubles, never fused.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.rounding import sum_in_order

WINDOW = 1 << 21
STEPS = 1 << 11
"""Samples per lane."""
_CACHED_LANES = 1 << 10  # whose figures fit in a core's cache


@dataclass(frozen=True)
class _Window:
    """Samples ``first`` to ``end - 1``."""

    first: int
    source_of: NDArray[np.int16]
    """``[lanes, STEPS]``"""
    counts: NDArray[np.float64]
    """``[lanes + 1, sources]``: what each source has given before each lane, and at the end."""

    @property
    def end(self) -> int:
        return self.first + self.source_of.size

    def locate(self, sample: int) -> tuple[int, int]:
        lane, step = divmod(sample - self.first, STEPS)
        source = int(self.source_of[lane, step])
        before = np.count_nonzero(self.source_of[lane, :step] == source)
        return source, int(self.counts[lane, source]) + int(before)

    def counts_at(self, sample: int) -> list[int]:
        lane, step = divmod(sample - self.first, STEPS)
        counts = self.counts[lane].astype(np.int64)
        if step:
            counts += np.bincount(self.source_of[lane, :step], minlength=len(counts))
        return counts.tolist()


class GreedyOrder:
    """Which source gives sample n of a blend, and which of its samples that is; both are counted from 0.

    Memory does not grow with n. Going forward costs 30 to 50 ns per sample with a few sources; with many rare
    ones it can become a microsecond. Going back is possible, too.

    Args:
        weights: of the sources, each above 0.
        end: nothing will be asked from here on.
        known: a sample, and how many each source has given before it: from there the order can be taken up.
    """

    def __init__(self, weights: list[float], end: int, known: tuple[int, list[int]] | None = None) -> None:
        self.shares: NDArray[np.float64] = np.array(weights, dtype=np.float64) / sum_in_order(weights)
        self.end = end
        self._counts = {0: [0] * len(weights)} | dict([known] if known else [])
        self._begins = sorted(self._counts)
        self._window = _Window(0, np.empty((0, STEPS), np.int16), np.zeros((1, len(weights))))

    def locate(self, sample: int) -> tuple[int, int]:
        """The number of the source, and the index within it."""
        return self._window_of(sample).locate(sample)

    def counts_at(self, sample: int) -> list[int]:
        """How many samples each source has given before ``sample``."""
        if (counts := self._counts.get(sample)) is not None:
            return counts
        return self._window_of(sample).counts_at(sample)

    def bounds_at(self, sample: int) -> tuple[list[int], list[int]]:
        """Bounds of :meth:`counts_at`, at no cost.

        Who is drawn from is not ahead of its share, so nobody is ever a whole sample ahead after that, and
        nobody is further behind than all the others together are ahead.
        """
        exact = self.shares * sample
        least = np.maximum(np.ceil(exact) - (len(exact) - 1), 0)
        most = np.minimum(np.floor(exact) + 1, sample)
        return least.astype(np.int64).tolist(), most.astype(np.int64).tolist()

    def _window_of(self, sample: int) -> _Window:
        if not self._window.first <= sample < self._window.end:
            begin = self._begins[bisect_right(self._begins, sample) - 1]
            while True:
                self._window = self._build(begin)
                begin = self._window.end
                if begin not in self._counts:
                    self._counts[begin] = self._window.counts[-1].astype(np.int64).tolist()
                    self._begins.insert(bisect_right(self._begins, begin), begin)
                if sample < begin:
                    break
        return self._window

    def _build(self, first: int) -> _Window:
        lanes = -(-min(WINDOW, max(1, self.end - first)) // STEPS)
        return _Window(first, *build_lanes(self.shares, first, self._counts[first], lanes))


def build_lanes(
    shares: NDArray[np.float64], first: int, counts: list[int], lanes: int
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The sources of ``lanes * STEPS`` samples from ``first`` on.

    Args:
        shares: of the sources; they sum up to 1.
        first: sample.
        counts: what the sources have given before it.
        lanes: how many.

    Returns:
        The sources, ``[lanes, STEPS]``, and what each had given before each lane and after the last one,
        ``[lanes + 1, sources]``.
    """
    places = first + STEPS * np.arange(lanes, dtype=np.int64)
    begin = _guess(shares, places, counts)
    begin[0] = counts
    end = np.empty_like(begin)
    source_of = np.empty((lanes, STEPS), dtype=np.int16)
    stale = np.arange(lanes)
    while stale.size:
        source_of[stale], end[stale] = _advance(shares, places[stale], begin[stale])
        # The first lane that is repeated is right from then on, and an error usually wears off within a lane.
        stale = 1 + np.flatnonzero((end[:-1] != begin[1:]).any(axis=1))
        begin[stale] = end[stale - 1]
    return source_of, np.concatenate((begin, end[-1:]))


def _guess(shares: NDArray[np.float64], places: NDArray[np.int64], counts: list[int]) -> NDArray[np.float64]:
    """About what each source has given before each place, ``[places, sources]``; they sum up to the place.

    A source of a small share is drawn when it is about half a sample behind, and once near the beginning.
    Those of large shares make up for the rest, each by as much.
    """
    exact = places[:, None] * shares
    given = np.maximum(np.floor(exact + 0.5), np.maximum(counts, 1))
    large = shares >= 0.1 * shares.max()
    rest = places - given[:, ~large].sum(axis=1) - exact[:, large].sum(axis=1)
    wanted = exact[:, large] + rest[:, None] / large.sum()
    given[:, large] = np.floor(wanted)
    rank = np.argsort(np.argsort(np.floor(wanted) - wanted, axis=1, kind="stable"), axis=1)
    given[:, large] += rank < (places - given.sum(axis=1))[:, None]
    return given


def _advance(
    shares: NDArray[np.float64], places: NDArray[np.int64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The rule itself, ``STEPS`` times for every lane: the sources, and what they have given after that."""
    source_of = np.empty((len(places), STEPS), dtype=np.int16)
    for block in range(0, len(places), _CACHED_LANES):
        lanes = slice(block, block + _CACHED_LANES)
        given = counts[lanes].copy()
        behind, number = np.empty_like(given), np.arange(len(given))
        for step in range(STEPS):
            place = np.maximum(places[lanes] + step, 1).astype(np.float64)
            np.multiply(place[:, None], shares, out=behind)
            np.subtract(behind, given, out=behind)
            choice = behind.argmax(axis=1)
            given[number, choice] += 1
            source_of[lanes, step] = choice
        counts[lanes] = given
    return source_of, counts
