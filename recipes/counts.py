"""Whole numbers as people write them: 7_500_000, 7.5e6 or 7.5M; of bytes also 500MB or 1.5GiB."""

from __future__ import annotations

import argparse
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
"""Lower-case suffixes of counts; b is a billion."""
BYTE_UNITS = {
    "": 1,
    **{prefix + end: 1000**n for n, prefix in enumerate("kmgt", 1) for end in ("", "b")},
    **{f"{prefix}ib": 1024**n for n, prefix in enumerate("kmgt", 1)},
}
"""Lower-case suffixes of bytes. Not b alone, which could as well be a billion."""
COUNT_FORMS = "a whole number such as 2000, 2e3, 2k, 1.5M, 2B or 7.5T"
BYTE_FORMS = "a whole number of bytes such as 2000, 2e6, 2MB, 1.5GB or 2GiB"

_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?) ?([a-z]*)", re.ASCII)
IN_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+", re.ASCII)


def whole_number(value: Any, units: dict[str, int] = COUNT_UNITS) -> int:
    """The number that ``value`` says, exactly: text never becomes a binary fraction.

    Args:
        value: a number, or text.
        units: lower-case suffixes, and what each stands for.

    Raises:
        ValueError: it says no whole number.
    """
    if type(value) is int:
        return value
    # A float's shortest form is what was written: 1e23, not the nearest binary number.
    text = repr(value) if type(value) is float else value
    if isinstance(text, str):
        text = text.strip().lower()
        if IN_GROUPS.fullmatch(text):  # As messages show them.
            return int(text.replace(",", ""))
        match = _NUMBER.fullmatch(text)
        if match is not None and match[2] in units:
            number = Fraction(Decimal(match[1])) * units[match[2]]
            if number.denominator == 1:
                return int(number)
    raise ValueError(f"{value} is not a whole number")


def counted(number: int, one: str, several: str = "") -> str:
    """``1 file``, ``1,200 files``.

    Args:
        several: what more than one, or none, are called; else ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def size_in_words(size: int) -> str:
    """Bytes for a message, in the unit that fits: ``812 bytes``, ``3.2 kB``, ``1,234.5 GB``."""
    if size < 1000:
        return counted(size, "byte")
    amount = float(size)
    for unit in ("kB", "MB"):
        amount /= 1000
        if amount < 999.95:
            return f"{amount:.1f} {unit}"
    return f"{amount / 1000:,.1f} GB"


TIME_UNITS = (
    *(("years", 365 * 86_400.0, 2), ("days", 86_400.0, 2), ("hours", 3600.0, 1), ("min", 60.0, 1)),
    *(("s", 1.0, 1), ("ms", 1e-3, 1), ("µs", 1e-6, 0)),
)
"""Each with its seconds, and how many of it there are at least where it is used."""


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that fits, and its seconds; for times that stand below each other, the largest one's."""
    if not seconds:
        return "s", 1.0
    return next(
        (name, size)
        for name, size, least in TIME_UNITS
        if round(seconds / size, 1 if least == 1 else 6) >= least
    )


def time_in_words(seconds: float) -> str:
    """An estimate in the unit that fits: ``5.8 days``, ``30.9 min``, ``280.8 ms``."""
    name, size = time_unit(seconds)
    return f"{seconds / size:,.1f} {name}"


def energy_in_words(kwh: float) -> str:
    """``118.4 MWh``, ``1.10 kWh``, ``20.4 Wh``, ``0.0097 Wh``."""
    if kwh >= 1000:
        return f"{kwh / 1000:,.1f} MWh"
    if kwh >= 1:
        return f"{kwh:,.2f} kWh"
    return f"{1000 * kwh:.1f} Wh" if kwh >= 0.001 else f"{1000 * kwh:.2g} Wh"


def amount_in_words(amount: float) -> str:
    """What has no smaller unit, such as a price: ``71,416``, ``3.94``; never 0 for what is not."""
    if amount >= 100:
        return f"{amount:,.0f}"
    return "under 0.01" if 0 < amount < 0.01 else f"{amount:.2f}"


def count(text: str) -> int:
    """An argument that counts something; argparse's ``type``."""
    return _argument(text, COUNT_UNITS, COUNT_FORMS)


def byte_count(text: str) -> int:
    """An argument that is a number of bytes."""
    return _argument(text, BYTE_UNITS, BYTE_FORMS)


def _argument(text: str, units: dict[str, int], forms: str) -> int:
    try:
        return whole_number(text, units)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not {forms}") from None
