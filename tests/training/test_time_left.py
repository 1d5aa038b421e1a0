"""The time left is right from the second step on, whatever happened before."""

from __future__ import annotations

import pytest

from recipes.training.time_left import WINDOW, TimeLeft

DAY = 86_400.0


def train(left: TimeLeft, steps: range, now: float, step_s: float = 2.0) -> float:
    """Steps one after the other; returns when the last one ended."""
    for step in steps:
        now += step_s
        left.step_ended(step, now)
    return now


def test_nothing_is_told_before_a_speed_is_known() -> None:
    left = TimeLeft(100, {})
    assert left.seconds() is None
    left.step_ended(1, DAY)
    assert left.seconds() is None
    left.step_ended(2, DAY + 2)
    assert left.seconds() == 98 * 2.0


def test_compilation_does_not_count() -> None:
    left = TimeLeft(1000, {})
    train(left, range(2, 4), now=train(left, range(1, 2), now=0.0, step_s=300.0))
    assert left.seconds() == 997 * 2.0


def test_a_resumed_run_has_only_its_remaining_steps() -> None:
    left = TimeLeft(1000, {})
    left.step_ended(901, DAY)  # The first of this process, which is no logged one.
    left.step_ended(910, DAY + 18.0)
    assert left.seconds() == 90 * 2.0


def test_pauses_are_no_training_and_count_as_often_as_they_come() -> None:
    left = TimeLeft(1000, {"validation": 100, "save": 250, "samples": None})
    now = train(left, range(1, 101), now=0.0)
    for kind, seconds in (("validation", 45.0), ("save", 20.0), ("samples", 7.0)):
        left.paused(kind, seconds)
        now += seconds
    now = train(left, range(101, 103), now)
    assert left.seconds() == pytest.approx(898 * 2.0 + 9 * 45.0 + 4 * 20.0)
    train(left, range(103, 1001), now)
    assert left.seconds() == 0.0


def test_the_last_steps_count() -> None:
    left = TimeLeft(10_000, {})
    now = train(left, range(1, 5_001), now=0.0, step_s=9.0)
    train(left, range(5_001, 5_001 + WINDOW), now, step_s=2.0)
    assert left.seconds() == pytest.approx((5_000 - WINDOW) * 2.0)
