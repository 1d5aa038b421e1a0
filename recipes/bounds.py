"""How large a number in the settings may be: no number of a schema is without a bound.

What is too large for any run is a slip of the fingers or of a unit, and would otherwise end in an overflow,
or in a run that does something else. A field says its own bound in its type, ``Annotated[int, AtMost(10)]``;
all others have the same one. How small a number may be depends on what it means: the checks of each setting
say so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from recipes.checks import refuse


class AtMost(NamedTuple):
    """The largest value of a number."""

    most: int


BY_TYPE = AtMost(10**9)
"""Of numbers whose field says nothing else: counts of steps, seconds, coefficients."""

Tokens = Annotated[int, AtMost(10**15)]
"""Of a run: 1,000 trillion."""
Samples = Annotated[int, AtMost(10**10)]
"""Of a run: three times those of 7.5 trillion tokens. To find where a blend stands then takes minutes."""
Bytes = Annotated[int, AtMost(2**50)]
Width = Annotated[int, AtMost(10**7)]
"""Of a layer, in channels."""
Batch = Annotated[int, AtMost(10**7)]
"""Samples of one step."""
Processes = Annotated[int, AtMost(10**6)]
LossScale = Annotated[float, AtMost(2**40)]
"""fp16's; elsewhere it begins at 2^32."""
Rate = Annotated[float, AtMost(1000)]
"""A learning rate, or what multiplies one."""


def check_bounds(config: Any) -> None:
    """Refuses the first number that is above its bound, or no number at all.

    Args:
        config: an object of a schema.

    Raises:
        UserError: with the key, the value and the bound.
    """
    for key, value, bound in _numbers(config, type(config), ""):
        if math.isnan(value):
            refuse(key, value, "is not a number; give one")
        if value > bound.most:
            refuse(key, value, f"must be at most {bound.most:,}")


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


def _bound_of(hint: Any) -> AtMost | None:
    if get_origin(hint) is Annotated:
        return next((each for each in get_args(hint)[1:] if isinstance(each, AtMost)), None)
    if hint in (int, float, Any):  # Of what may be anything, numbers are bounded too.
        return BY_TYPE
    if get_origin(hint) in (Union, UnionType, list, tuple, dict):
        return next((bound for part in get_args(hint) if (bound := _bound_of(part)) is not None), None)
    return None


def _numbers(value: Any, hint: Any, key: str) -> Iterator[tuple[str, int | float, AtMost]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for name, part in _hints(type(value)).items():
            yield from _numbers(getattr(value, name), part, f"{key}.{name}" if key else name)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _numbers(each, hint, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _numbers(each, hint, f"{key}[{number}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        bound = _bound_of(hint)
        if bound is not None:
            yield key, value, bound
