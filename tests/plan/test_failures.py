"""Formulas of goodput and checkpoint intervals against runs that are played through."""

from __future__ import annotations

import math
import random

import pytest

from recipes.errors import UserError
from recipes.plan.failures import (
    Failures,
    Simulated,
    best_interval,
    daly_interval,
    expected_goodput,
    simulate,
    young_interval,
)

HOUR = 3600.0
USUAL = Failures(mtbf=6 * HOUR, save=30, recovery=300)
BAD = Failures(mtbf=0.5 * HOUR, save=120, recovery=600)
LATER = Failures(mtbf=HOUR, save=2, recovery=300, written_after=100)


def played(failures: Failures, interval: float) -> Simulated:
    """Long enough for thousands of failures."""
    return simulate(failures, interval, 3000 * failures.mtbf, seed=1)


@pytest.mark.parametrize("failures", [USUAL, BAD, LATER])
@pytest.mark.parametrize("factor", [0.3, 1, 3])
def test_goodput_is_that_of_the_simulation(failures: Failures, factor: float) -> None:
    interval = max(factor * daly_interval(failures), failures.written_after)
    run = played(failures, interval)
    assert run.failures > 2500
    assert run.goodput == pytest.approx(expected_goodput(failures, interval), rel=0.02)


@pytest.mark.parametrize("failures", [USUAL, BAD])
def test_dalys_interval_is_the_best_one(failures: Failures) -> None:
    best = max(
        (expected_goodput(failures, 1.02**n), 1.02**n) for n in range(int(math.log(1e6) / math.log(1.02)))
    )
    assert daly_interval(failures) == pytest.approx(best[1], rel=0.05)
    assert expected_goodput(failures, daly_interval(failures)) == pytest.approx(best[0], rel=1e-3)
    # So does the simulation say, of intervals far apart.
    mine = played(failures, daly_interval(failures)).goodput
    assert mine > played(failures, 0.25 * daly_interval(failures)).goodput
    assert mine > played(failures, 4 * daly_interval(failures)).goodput


def test_young_and_daly_agree_where_failures_are_rare() -> None:
    rare = Failures(mtbf=1000 * HOUR, save=10, recovery=60)
    assert daly_interval(rare) == pytest.approx(young_interval(rare), rel=0.01)
    assert young_interval(rare) == math.sqrt(2 * 10 * 1000 * HOUR)
    assert daly_interval(Failures(mtbf=10, save=30, recovery=0)) == 10


def test_a_run_without_failures_only_saves() -> None:
    never = Failures(mtbf=1e15, save=10, recovery=60)
    run = simulate(never, 90, 900)
    assert (run.failures, run.lost, run.seconds) == (0, 0, 1000)
    assert run.goodput == pytest.approx(expected_goodput(never, 90)) == pytest.approx(0.9)


def test_a_failure_loses_what_is_not_saved() -> None:
    """Mean loss of a failure: half of an interval, where intervals are short and recoveries too."""
    failures = Failures(mtbf=100_000, save=1, recovery=1)
    run = simulate(failures, 1000, 3e8, seed=2)
    assert run.lost / run.failures == pytest.approx(500, rel=0.05)
    assert run.failures == pytest.approx(run.seconds / failures.mtbf, rel=0.05)


def test_until_it_is_written_a_checkpoint_is_of_no_use() -> None:
    """A failure loses half of an interval, and what is trained while a save is written."""
    failures = Failures(mtbf=100_000, save=1, recovery=1, written_after=300)
    run = simulate(failures, 1000, 3e8, seed=2)
    assert run.lost / run.failures == pytest.approx(500 + 300, rel=0.05)


def test_a_save_waits_until_the_last_is_written_and_so_does_the_end() -> None:
    slow = Failures(mtbf=1e15, save=10, recovery=60, written_after=200, under_way=1)
    assert simulate(slow, 90, 180).seconds == 90 + 10 + 200 + 10 + 200


def test_a_second_save_begins_while_the_first_is_written_and_a_third_waits() -> None:
    """They begin at 90, 190 and, once the first is written, 300; written they are at 300, 500 and 700."""
    slow = Failures(mtbf=1e15, save=10, recovery=60, written_after=200)
    assert simulate(slow, 90, 90).seconds == 300
    assert simulate(slow, 90, 180).seconds == 500
    assert simulate(slow, 90, 270).seconds == 700
    assert simulate(slow, 90, 280).seconds == 900
    assert simulate(slow, 195, 390).seconds == 195 + 10 + 195 + 10 + 200  # Nobody waits.


def event_by_event(failures: Failures, interval: float, training: float, seed: int) -> Simulated:
    """The same as a queue of events, which training and the disk take one by one: slow, and obvious."""
    draw = random.Random(seed)
    now = trained = checkpoint = lost = 0.0
    count, failure = 0, draw.expovariate(1 / failures.mtbf)
    waiting: list[float] = []  # What saves hold, the one that is written first.
    doing = "training"
    ends: dict[str, float] = {"training": min(interval, training)}
    while checkpoint < training:
        if doing == "waiting" and len(waiting) < failures.under_way:
            doing, ends["saving"] = "saving", now + failures.save
        if waiting and "writing" not in ends:
            ends["writing"] = now + failures.written_after
        next_one = min(ends, key=lambda each: ends[each])
        if failure < ends[next_one]:
            segment = min(interval, training - trained)
            lost += trained - checkpoint + (failure - ends["training"] + segment if "training" in ends else 0)
            trained, waiting = checkpoint, []
            while True:
                count += 1
                now, failure = failure, failure + draw.expovariate(1 / failures.mtbf)
                if now + failures.recovery <= failure:
                    break
            now += failures.recovery
            doing, ends = "training", {"training": now + min(interval, training - trained)}
            continue
        now = ends.pop(next_one)
        if next_one == "training":
            trained, doing = min(trained + interval, training), "waiting"
        elif next_one == "writing":
            checkpoint = waiting.pop(0)
        else:
            waiting.append(trained)
            doing = "training"
            if trained < training:
                ends["training"] = now + min(interval, training - trained)
    return Simulated(training / now, count, lost, now)


@pytest.mark.parametrize("under_way", [1, 2, 3])
@pytest.mark.parametrize("interval", [7, 90, 199, 400])
def test_the_simulation_is_that_of_a_queue_of_events(interval: float, under_way: int) -> None:
    for seed in range(5):
        failures = Failures(mtbf=1500, save=10, recovery=60, written_after=200, under_way=under_way)
        short, plain = (play(failures, interval, 20_000, seed) for play in (simulate, event_by_event))
        assert short.failures == plain.failures > 5
        assert short.seconds == pytest.approx(plain.seconds)
        assert short.lost == pytest.approx(plain.lost)


@pytest.mark.parametrize("under_way", [1, 2])
def test_saves_that_are_due_before_others_are_written(under_way: int) -> None:
    """The formula knows them too, and that it is better to save less often."""
    failures = Failures(mtbf=6 * HOUR, save=3, recovery=300, written_after=600, under_way=under_way)
    assert daly_interval(failures) < 0.7 * best_interval(failures)
    for interval in (0.5 * daly_interval(failures), daly_interval(failures), best_interval(failures)):
        expected = expected_goodput(failures, interval)
        assert played(failures, interval).goodput == pytest.approx(expected, rel=0.02)
    best = expected_goodput(failures, best_interval(failures))
    assert all(best > expected_goodput(failures, factor * best_interval(failures)) for factor in (0.9, 1.1))


def test_the_same_seed_is_the_same_run() -> None:
    assert simulate(USUAL, 600, 1e6, seed=3) == simulate(USUAL, 600, 1e6, seed=3)
    assert simulate(USUAL, 600, 1e6, seed=3) != simulate(USUAL, 600, 1e6, seed=4)


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        (Failures(0, 1, 1), "mean time between failures=0: must be positive"),
        (Failures(1, 0, 1), "seconds of a save=0: must be positive"),
        (Failures(1, 1, -1), "seconds of a recovery=-1: must not be negative"),
        (Failures(1, 1, 1, -1), "seconds until a save is written=-1: must not be negative"),
    ],
)
def test_impossible_times(failures: Failures, message: str) -> None:
    with pytest.raises(UserError, match=message):
        failures.check()


def test_failures_that_no_recovery_survives_are_refused() -> None:
    """Else the simulation would not end."""
    with pytest.raises(UserError, match=r"^mean time between failures=1 s: .*hardly ever end"):
        Failures(mtbf=1, save=5, recovery=300).check()
    Failures(mtbf=100, save=5, recovery=300).check()
