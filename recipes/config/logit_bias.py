"""``inference.logit_bias`` as it is written: a mapping in YAML, or its text from a command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from recipes.checks import refuse
from recipes.console import shown

MOST_BIAS = 100
"""Enough to decide every choice."""
KEY = "inference.logit_bias"


def read_logit_bias(value: Any, key: str = KEY) -> dict[int | str, float]:
    """Token -> what is added to its logit. A number is an id, text is a token.

    Raises:
        UserError: it is no such mapping, or a value is too large.
    """
    example = 'for example {1234: -100, " the": 1.5}, with a space after each colon'
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            refuse(key, shown(value), f"cannot be read; write tokens and numbers, {example}")
    if not isinstance(value, Mapping):
        refuse(key, shown(value), f"give tokens and numbers, {example}")
    for token, bias in value.items():
        if isinstance(token, bool) or not isinstance(token, int | str) or token == "":
            refuse(key, shown(token), f"name tokens by their ids, or as text in quotes, {example}")
        if isinstance(token, int) and token < 0:
            refuse(key, token, "ids are not negative")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -MOST_BIAS <= bias <= MOST_BIAS:
            refuse(
                f"{key}[{shown(token)}]",
                shown(bias),
                f"must be a number from -{MOST_BIAS} to {MOST_BIAS}, {example}",
            )
    return {token: float(bias) for token, bias in value.items()}
