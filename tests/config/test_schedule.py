"""Learning rates against their formulas in float64, and against megatron-core's scheduler."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.phase_schema import PhaseConfig
from recipes.config.schema import OptimConfig
from tests.support.configs import schedule_of_run


def rates(optim: OptimConfig, total_steps: int, count: int) -> list[float]:
    """Learning rate of the first ``count`` optimizer steps."""
    schedule = schedule_of_run(optim, total_steps)
    return [schedule.rate(step) for step in range(count)]


def rates_of_megatron(optim: OptimConfig, total_steps: int, count: int) -> list[float]:
    """The same by megatron-core's scheduler with the same lengths."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    optimizer: Any = SimpleNamespace(param_groups=[{"params": []}])
    lengths = schedule_of_run(optim, total_steps).segments[0].lengths
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        lr_warmup_steps=lengths.warmup,
        lr_decay_steps=lengths.decay,
        lr_decay_style=optim.lr_decay_style,
        start_wd=0.1,
        end_wd=0.1,
        wd_incr_steps=lengths.decay,
        wd_incr_style="constant",
        wsd_decay_steps=lengths.wsd_decay,
        lr_wsd_decay_style=optim.lr_wsd_decay_style,
    )
    out = []
    for _ in range(count):
        out.append(optimizer.param_groups[0]["lr"])
        scheduler.step(1)
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
def test_the_rate_is_megatron_cores(
    style: str,
    wsd: str,
    lengths: tuple[int, int | None, int | None],
    in_tokens: bool,
    total: int,
    min_lr: float,
) -> None:
    keys = ["lr_warmup", "lr_decay", "lr_wsd_decay"]
    if in_tokens:  # Anything in a step's last thousand tokens ends with the step.
        tokens = [
            None if length is None else max(1, length * 1000 - 37 * n) for n, length in enumerate(lengths)
        ]
        values: Any = {f"{key}_tokens": value for key, value in zip(keys, tokens, strict=True)}
    else:
        values = {f"{key}_steps": value for key, value in zip(keys, lengths, strict=True)}
    optim = OptimConfig(lr=3e-4, min_lr=min_lr, lr_decay_style=style, lr_wsd_decay_style=wsd, **values)
    ours = rates(optim, total, count=80)
    assert ours == pytest.approx(rates_of_megatron(optim, total, count=80), rel=1e-12, abs=1e-18)
    assert max(ours) <= 3e-4 * (1 + 1e-12)


@given(
    style=st.sampled_from(["cosine", "linear", "constant"]),
    begins=st.lists(st.integers(1, 60), unique=True, max_size=3).map(sorted),
    warmup=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_a_phase_with_a_schedule_of_its_own(style: str, begins: list[int], warmup: int) -> None:
    """Up to its first step nothing changes, however long the run is; from there its own formula holds."""
    optim = OptimConfig(lr=3e-4, min_lr=3e-6, lr_decay_style=style, lr_warmup_steps=3)
    peaks = [1e-4 * (number + 1) for number in range(len(begins))]
    phases = [PhaseConfig(until_step=end) for end in begins] + [PhaseConfig()]
    for phase, peak in zip(phases[1:], peaks, strict=True):
        phase.lr, phase.lr_warmup_steps = peak, warmup
    schedule = schedule_of_run(optim, 90, phases)
    borders = [0, *begins, 90]
    for number, (first, end) in enumerate(pairwise(borders)):
        peak = peaks[number - 1] if number else optim.lr
        rise = min(warmup if number else 3, end - first - 1)
        own = replace(optim, lr=peak, lr_warmup_steps=rise, lr_decay_steps=end - first)
        before = schedule.rate(first) if rise and number else 0.0
        for step in range(first, end):
            expected = expected_rate(own, end - first, step - first)
            if number and step - first < rise:
                expected = before + (peak - before) * (step - first) / rise
            assert schedule.rate(step) == pytest.approx(expected, rel=1e-12)
    longer = schedule_of_run(optim, 900, phases)
    last = borders[-2]
    assert [longer.rate(step) for step in range(last)] == [schedule.rate(step) for step in range(last)]


def test_a_phase_without_a_peak_goes_on_from_the_rate_that_was_reached() -> None:
    optim = OptimConfig(lr=1.0, lr_decay_style="WSD", lr_decay_steps=1000, min_lr=0.1)
    phases = [PhaseConfig(until_step=50), PhaseConfig(until_step=80), PhaseConfig(lr_decay_style="linear")]
    schedule = schedule_of_run(optim, 100, phases)
    assert {schedule.rate(step) for step in range(81)} == {1.0}, "the second phase sets no rate"
    assert [schedule.rate(step) for step in (90, 100)] == pytest.approx([0.55, 0.1])


def test_lengths_in_tokens_count_from_the_phase_on() -> None:
    """The phase's steps are of 500 tokens, the run's of 1,000."""
    phases = [
        PhaseConfig(until_step=10),
        PhaseConfig(global_batch_size=5, lr=1.0, lr_warmup_tokens=2001, lr_decay_tokens=10_000),
    ]
    own = schedule_of_run(OptimConfig(lr=2.0), 100, phases).at(10)
    assert (own.first_step, own.lengths.warmup, own.lengths.decay) == (10, 5, 20)
