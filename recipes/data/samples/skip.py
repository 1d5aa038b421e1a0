"""Samples that are left out of a run by hand (data.skip)."""

from __future__ import annotations

from collections.abc import Sequence


class Skip:
    """Numbers the samples that are left, as if the others had never been in the order.

    What is left keeps its order and its source, so nothing else of the run is reshuffled.

    Args:
        ranges: first and last sample of each, ascending, which do not touch each other.
    """

    def __init__(self, ranges: Sequence[Sequence[int]] = ()) -> None:
        self.ranges = [(first, last) for first, last in ranges]

    def sample(self, place: int) -> int:
        """The sample that is read as the ``place``-th of the run, both counted from 0."""
        for first, last in self.ranges:
            if place < first:
                break
            place += last + 1 - first
        return place

    def before(self, sample: int) -> list[list[int]]:
        """The ranges that begin before a sample."""
        return [[first, last] for first, last in self.ranges if first < sample]
