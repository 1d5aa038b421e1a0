"""Learning rates against their formulas in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.lengths import schedule_lengths
from recipes.config.schema import OptimConfig
from recipes.optim.build import build_schedule
from recipes.plan.learning_rate import HEIGHT, WIDTH, draw_learning_rate, learning_rate

TOKENS_PER_STEP = 1000


def rates(optim: OptimConfig, total_steps: int, count: int) -> list[float]:
    """Learning rate of the first ``count`` optimizer steps."""
    optimizer: Any = SimpleNamespace(param_groups=[{"params": []}, {"params": [], "wd_mult": 0.0}])
    schedule = build_schedule(optim, optimizer, total_steps, TOKENS_PER_STEP)
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


LENGTHS = st.none() | st.integers(1, 70)


@given(
    style=st.sampled_from(["cosine", "linear", "WSD", "constant", "inverse-square-root"]),
    wsd=st.sampled_from(["linear", "cosine", "exponential", "minus_sqrt"]),
    lengths=st.tuples(st.integers(0, 70), LENGTHS, LENGTHS),
    in_tokens=st.booleans(),
    total=st.integers(0, 70),
    min_lr=st.floats(0, 3e-4),
)
@settings(max_examples=200, deadline=None)
def test_the_planned_rate_is_megatron_cores(
    style: str,
    wsd: str,
    lengths: tuple[int, int | None, int | None],
    in_tokens: bool,
    total: int,
    min_lr: float,
) -> None:
    """recipes/plan/learning_rate.py, which needs no torch, against the scheduler that trains."""
    keys = ["lr_warmup", "lr_decay", "lr_wsd_decay"]
    if in_tokens:  # Anything in a step's last thousand tokens ends with the step.
        tokens = [
            None if length is None else max(1, length * 1000 - 37 * n) for n, length in enumerate(lengths)
        ]
        values: Any = {f"{key}_tokens": value for key, value in zip(keys, tokens, strict=True)}
    else:
        values = {f"{key}_steps": value for key, value in zip(keys, lengths, strict=True)}
    optim = OptimConfig(lr=3e-4, min_lr=min_lr, lr_decay_style=style, lr_wsd_decay_style=wsd, **values)
    resolved = schedule_lengths(optim, TOKENS_PER_STEP, total)
    planned = [learning_rate(step, optim, resolved) for step in range(80)]
    assert planned == pytest.approx(rates(optim, total, count=80), rel=1e-12, abs=1e-18)
    assert max(planned) <= 3e-4 * (1 + 1e-12)


def test_groups_keep_their_proportion() -> None:
    """A group with a rate of its own decays by the same shape to the same fraction of its peak."""
    optim = OptimConfig(lr=2e-3, min_lr=2e-4, lr_warmup_steps=5)
    group: dict[str, Any] = {"params": [], "max_lr": 2e-2, "min_lr": 2e-3}
    optimizer: Any = SimpleNamespace(param_groups=[{"params": []}, group])
    schedule = build_schedule(optim, optimizer, 50, TOKENS_PER_STEP)
    for _ in range(60):
        assert group["lr"] == pytest.approx(10 * optimizer.param_groups[0]["lr"], rel=1e-12)
        schedule.step(1)


def test_curve() -> None:
    optim = OptimConfig(lr=3e-4, lr_warmup_steps=100, lr_decay_style="linear")
    *plot, axis, steps, tokens = draw_learning_rate(optim, TOKENS_PER_STEP, 1000).splitlines()
    assert len(plot) == HEIGHT and plot[0].startswith(" 3.00e-04 |")
    bars = [line.split("|")[1].ljust(WIDTH) for line in plot]
    heights = [sum(row[column] == "*" for row in bars) for column in range(WIDTH)]
    peak = WIDTH * 100 // 1000
    assert heights[:peak] == sorted(heights[:peak]) and heights[0] < 3
    assert heights[peak] == HEIGHT
    assert heights[peak:] == sorted(heights[peak:], reverse=True) and heights[-1] == 0
    for column in range(peak + 1, WIDTH):
        assert heights[column] == pytest.approx(HEIGHT * (WIDTH - column) / (WIDTH - peak), abs=1)
    assert axis.endswith("-" * WIDTH)
    assert steps.split() == ["step", "0", "1,000"] and tokens.split() == ["tokens", "0", "1,000,000"]


@pytest.mark.parametrize("total", [0, 1, 2, 59, 10**7])
def test_every_length_of_run_has_a_curve(total: int) -> None:
    for style in ("cosine", "constant", "WSD", "inverse-square-root"):
        text = draw_learning_rate(OptimConfig(lr=1e-3, lr_decay_style=style), 4_000_000, total)
        assert max(len(line) for line in text.splitlines()) <= 75
        assert text.count("\n") == HEIGHT + 2 and "*" in text
