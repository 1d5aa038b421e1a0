"""Basic checks of single values, with uniform refusals."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from recipes.errors import UserError

LONGEST_SHOWN = 10**36
"""Larger whole numbers are shown rounded."""


def refuse(key: str, value: object, why: str) -> NoReturn:
    """Raises the :class:`UserError` ``key=value: why``."""
    shown = value
    if type(value) is int:
        shown = f"{value:,}" if abs(value) < LONGEST_SHOWN else f"{Decimal(value):.4g}"
    raise UserError(f"{key}={shown}: {why}")


def refuse_ignored(key: str, settings: Any, set_what: str) -> None:
    """Refuses the first of a schema's ``settings`` that is not as it is by default: nothing would read it.

    ``set_what`` says what to set for it to be read, or why nothing does.
    """
    for name, default in vars(type(settings)()).items():
        value = getattr(settings, name)
        if value != default:
            refuse(f"{key}.{name}", value, f"would be ignored: {set_what}")


def positive(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        refuse(key, value, "must be positive")


def not_negative(key: str, value: float) -> None:
    if not 0 <= value < math.inf:
        refuse(key, value, "must not be negative")


MOST_ON_A_MACHINE = 1024


def of_a_machine(key: str, value: int, lowest: int = 1) -> None:
    """Refuses so many threads or processes on one machine that it would come to a standstill."""
    if not lowest <= value <= MOST_ON_A_MACHINE:
        refuse(key, value, f"must lie between {lowest} and {MOST_ON_A_MACHINE:,}")


def one_of(
    key: str, value: str, choices: tuple[str, ...], foreign: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuses what is no choice, with the one that was meant.

    Args:
        key: the setting.
        value: its value.
        choices: what it may be.
        foreign: values of other projects -> ours.
    """
    if value in choices:
        return
    hint, by_lower = "", {choice.lower(): choice for choice in choices}
    if str(value) in foreign and foreign[str(value)] in choices:
        hint = f"; here it is {foreign[str(value)]}"
    elif close := difflib.get_close_matches(str(value).lower(), by_lower, n=1, cutoff=0.75):
        hint = f"; did you mean {by_lower[close[0]]}?"
    refuse(key, value, f"choose one of {', '.join(choices)}{hint}")


def hub_hint(path: str | Path) -> str:
    """What to do if a path that does not exist is a name on the Hugging Face hub; empty if it is none."""
    name = str(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) or Path(name).parent.exists():
        return ""
    return f"download it first: hf download {name} --local-dir {name.rpartition('/')[2]}"
