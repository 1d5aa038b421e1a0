"""Learning rates against their formulas in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.schema import OptimConfig
from tests.support.engine import torch  # The stand-in for CUDA before megatron-core.

from recipes.optim.build import build_schedule  # isort: skip

assert torch is not None


def rates(optim: OptimConfig, total_steps: int, count: int) -> list[float]:
    """Learning rate of the first ``count`` optimizer steps."""
    optimizer: Any = SimpleNamespace(param_groups=[{"params": []}, {"params": [], "wd_mult": 0.0}])
    schedule = build_schedule(optim, optimizer, total_steps)
    out = []
    for _ in range(count):
        out.append(optimizer.param_groups[0]["lr"])
        assert optimizer.param_groups[1]["lr"] == out[-1]
        assert optimizer.param_groups[0]["weight_decay"] == optim.weight_decay
        assert optimizer.param_groups[1]["weight_decay"] == 0.0
        schedule.step(1)
    return out


def expected_rate(optim: OptimConfig, decay: int, step: int) -> float:
    """The rate of step ``step``, counted from 0."""
    warmup, high, low = optim.lr_warmup_steps, optim.lr, optim.min_lr
    if warmup and step <= warmup:
        return high * step / warmup
    if optim.lr_decay_style == "constant":
        return high
    if step >= decay and optim.lr_decay_style != "inverse-square-root":
        return low
    progress = (step - warmup) / (decay - warmup)
    if optim.lr_decay_style == "linear":
        return high - (high - low) * progress
    if optim.lr_decay_style == "cosine":
        return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2
    if optim.lr_decay_style == "inverse-square-root":
        return low if step > decay else max(low, high * math.sqrt(max(1, warmup) / max(1, step)))
    length = optim.lr_wsd_decay_steps or max(1, decay // 10)
    if step <= decay - length:
        return high
    past = (step - (decay - length)) / length
    shape = {
        "linear": 1 - past,
        "cosine": (1 + math.cos(math.pi * past)) / 2,
        "exponential": 2 * 0.5**past - 1,
        "minus_sqrt": 1 - math.sqrt(past),
    }
    return low + (high - low) * shape[optim.lr_wsd_decay_style]


@given(
    style=st.sampled_from(["cosine", "linear", "WSD", "constant", "inverse-square-root"]),
    wsd=st.sampled_from(["linear", "cosine", "exponential", "minus_sqrt"]),
    warmup=st.integers(0, 20),
    decay=st.integers(22, 60),
    explicit=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_formula(style: str, wsd: str, warmup: int, decay: int, explicit: bool) -> None:
    optim = OptimConfig(
        lr=3e-4,
        min_lr=3e-6,
        lr_decay_style=style,
        lr_warmup_steps=warmup,
        lr_decay_steps=decay if explicit else None,
        lr_wsd_decay_style=wsd,
    )
    actual = rates(optim, total_steps=500 if explicit else decay, count=80)
    assert actual == pytest.approx(
        [expected_rate(optim, decay, step) for step in range(80)], rel=1e-12, abs=1e-18
    )
    assert max(actual) <= 3e-4 * (1 + 1e-12)


def test_param1() -> None:
    """Cosine 3e-4 to 3e-6 with 2,000 warm-up steps."""
    optim = OptimConfig(lr=3e-4, min_lr=3e-6, lr_warmup_steps=2000)
    actual = rates(optim, total_steps=10_000, count=10_002)
    assert actual[0] == 0.0
    assert actual[1000] == pytest.approx(1.5e-4)
    assert actual[2000] == pytest.approx(3e-4)
    assert actual[6000] == pytest.approx((3e-4 + 3e-6) / 2)
    assert actual[10_000] == actual[10_001] == pytest.approx(3e-6)


@pytest.mark.parametrize("style", ["cosine", "linear", "WSD", "constant", "inverse-square-root"])
def test_a_run_shorter_than_its_warm_up(style: str) -> None:
    optim = OptimConfig(lr=1.0, lr_warmup_steps=100, lr_decay_style=style)
    for total in (0, 1, 2, 5):
        actual = rates(optim, total_steps=total, count=total)
        assert actual == sorted(actual)
        assert all(0 <= rate <= 1 for rate in actual)
