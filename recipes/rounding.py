"""Sums that round alike everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add


def sum_in_order(values: Iterable[float]) -> float:
    """The sum from left to right, every addition rounded to a double.

    What decides which text is read must not depend on Python's version: from 3.12 on, ``sum()`` makes up for
    what rounding loses.
    """
    return reduce(add, values, 0.0)
