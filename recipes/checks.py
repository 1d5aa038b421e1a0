"""Basic checks of single values, with uniform refusals."""

from __future__ import annotations

import math
from typing import NoReturn

from recipes.errors import UserError


def refuse(key: str, value: object, why: str) -> NoReturn:
    """Raises the :class:`UserError` ``key=value: why``."""
    raise UserError(f"{key}={value}: {why}")


def positive(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        refuse(key, value, "must be positive")


def not_negative(key: str, value: float) -> None:
    if not 0 <= value < math.inf:
        refuse(key, value, "must not be negative")


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        refuse(key, value, f"choose one of {', '.join(choices)}")
