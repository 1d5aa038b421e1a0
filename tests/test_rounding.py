"""Sums that decide which text is read."""

from __future__ import annotations

from recipes.data.samples.greedy import GreedyOrder
from recipes.rounding import sum_in_order


def test_the_same_under_every_python() -> None:
    """Ten tenths: 1.0 by ``sum()`` from Python 3.12 on, which made another blend of the same weights."""
    assert sum_in_order([0.1] * 10) == 0.9999999999999999
    assert sum_in_order([]) == 0.0


def test_shares_of_a_blend() -> None:
    assert GreedyOrder([0.1] * 10, 1).shares[0] == 0.1 / 0.9999999999999999
