"""Figures as people read them, and the names of what they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from recipes.counts import time_in_words
from recipes.errors import UserError


def format_number(value: float, digits: int = 4) -> str:
    """Short and readable: 31.6k, 2.9B, 3e-4, 2.412; of `digits` digits, of one less before a unit."""
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e15:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 9,999 stays whole; from 10,000 on there is a unit.
        if size >= unit and size >= 1e4:
            short = size / unit < 999.5
            return f"{value / unit:.{digits - 1}g}{name}" if short else f"{value / unit:,.0f}{name}"
    if size >= 1000:
        return f"{value:,.{max(0, digits - 4)}f}"
    return f"{value:.{digits}g}"


def format_percent(share: float) -> str:
    """A share in percent, without the sign: 61.3; below 1 % two digits that are not 0."""
    return f"{share * 100:.1f}" if share >= 0.01 else f"{share * 100:.2g}"


def format_duration(seconds: float) -> str:
    """Two units at most: 3.2 ms, 41 s, 3 min 20 s, 5 h 12 min, 9 d 4 h."""
    total = round(seconds)
    units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")]
    for (size, name), (small, small_name) in pairwise(units):
        if total >= size:
            rest = total % size // small
            return f"{total // size:,} {name}" + (f" {rest} {small_name}" if rest else "")
    return time_in_words(seconds) if seconds < 10 else f"{total} s"


def distinct_labels(paths: Sequence[Path], label: Callable[[Path], str]) -> list[str]:
    """Short names for `paths`; the whole paths of those that would have the same one.

    Raises:
        UserError: a path is given twice.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice")
    short = [label(path) for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
