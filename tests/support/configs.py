"""Shipped configurations, and configurations with some values changed and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recipes.config.data_schema import DataConfig
from recipes.config.jobs import CONF_DIR
from recipes.config.phase_schema import PhaseConfig
from recipes.config.schedule import Schedule, schedule_of
from recipes.config.schema import OptimConfig, PretrainConfig, TrainerConfig
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


TOKENS_PER_STEP = 1000


def config_of_run(optim: OptimConfig, steps: int, phases: list[PhaseConfig] | None = None) -> PretrainConfig:
    """A run of 10 samples of 100 tokens a step."""
    trainer = TrainerConfig(max_steps=steps, global_batch_size=10, micro_batch_size=1)
    return PretrainConfig(
        name="x", optim=optim, trainer=trainer, data=DataConfig(seq_length=100), phases=phases or []
    )


def schedule_of_run(optim: OptimConfig, steps: int, phases: list[PhaseConfig] | None = None) -> Schedule:
    """Its learning rates."""
    return schedule_of(config_of_run(optim, steps, phases))
