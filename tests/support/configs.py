"""Shipped configurations, and configurations with some values changed and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recipes.config.jobs import CONF_DIR
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError


def options(group: str) -> list[str]:
    """The names of the YAML files of a configuration group."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def changed(config: Any, **values: Any) -> Any:
    """``config`` with ``a__b=value`` set inside it."""
    for path, value in values.items():
        head, _, rest = path.partition("__")
        config = replace(config, **{head: changed(getattr(config, head), **{rest: value}) if rest else value})
    return config


def refusal(config: Any, validate: Callable[[Any], object] = validate_pretrain) -> str:
    """The one line with which ``validate`` refuses ``config``."""
    with pytest.raises(UserError) as caught:
        validate(config)
    text = str(caught.value)
    assert "\n" not in text
    return text
