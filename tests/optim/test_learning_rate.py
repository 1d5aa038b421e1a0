"""What rate and decay a step's parameter groups get."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recipes.config.schema import OptimConfig
from recipes.optim.learning_rate import LearningRate
from tests.support.configs import schedule_of_run


def test_groups_keep_their_proportion() -> None:
    """A group with a rate of its own decays by the same shape to the same fraction of its peak."""
    optim = OptimConfig(lr=2e-3, min_lr=2e-4, lr_warmup_steps=5, weight_decay=0.3)
    own: dict[str, Any] = {"params": [], "max_lr": 2e-2, "min_lr": 2e-3, "end_wd": 0.7}
    plain: dict[str, Any] = {"params": [], "wd_mult": 0.0}
    optimizer: Any = SimpleNamespace(param_groups=[plain, own])
    schedule = schedule_of_run(optim, 50)
    rates = LearningRate(optim, schedule, optimizer)
    for step in range(60):
        rates.set(step)
        assert plain["lr"] == schedule.rate(step)
        assert own["lr"] == pytest.approx(10 * plain["lr"], rel=1e-12)
        assert (plain["weight_decay"], own["weight_decay"]) == (0.0, 0.7)
