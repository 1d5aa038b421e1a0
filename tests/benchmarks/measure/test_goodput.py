"""All kinds of faults in one run of two processes; and their schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.measure.goodput import Cost, as_job, costs, faulty_run, shortcomings
from benchmarks.measure.lives import Life, differences, undisturbed
from benchmarks.measure.planned_faults import (
    ENDING,
    GUARDS,
    PASSING,
    Planned,
    allowed,
    faults_text,
    left_out,
    schedule,
)
from recipes.config.timeline import even_timeline
from recipes.errors import UserError
from recipes.training.faults import VARIABLE, parse_faults
from tests.support.corpus import TinyData
from tests.support.fault_cases import Ranks

EVERY = 4
KINDS = ENDING + PASSING
TIMELINE = even_timeline(global_batch_size=8, micro_batch_size=2, seq_length=32)


@pytest.mark.slow
def test_one_of_each(tiny_data: TinyData, tmp_path: Path) -> None:
    planned, steps = schedule(len(KINDS), None, EVERY, 2, 2)
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        data__valid="{}",
        trainer__max_steps=str(steps),
        trainer__checkpoint__every_n_steps=str(EVERY),
        optim__lr="3e-3",
        optim__lr_decay_steps=str(steps),
    )
    settings += [*GUARDS, "trainer.guards.loss_spike_zscore=5"]

    def launch(name: str, kinds: Sequence[str], *more: str) -> Callable[[], Life]:
        return lambda: Ranks([*settings, f"name={name}", *more], faults_text(planned, TIMELINE, kinds))

    skip = str(left_out(planned, TIMELINE)).replace(" ", "")
    undisturbed(launch("whole", ("nan",), f"data.skip={skip}"), tmp_path / "whole")
    starts, found = faulty_run(launch("faulty", KINDS), tmp_path / "faulty", planned, EVERY)
    assert len(starts) >= 1 + len(ENDING)
    assert {cost.kind for cost in found if cost.code is not None} == set(ENDING)
    # How long it took is the machine's matter.
    assert shortcomings(planned, found, aim_s=1e9) == []
    assert {
        cost.kind: cost.lost for cost in found if cost.kind in ("terminate", "slow", "nan", "full_disk")
    } == {
        "terminate": 0,
        "slow": 0,
        "nan": 1,
        "full_disk": EVERY,
    }
    assert all(cost.recovery_s is not None for cost in found if cost.kind != "slow")
    assert differences(tmp_path / "whole", tmp_path / "faulty") == []
    # Asked again, the same is found.
    assert costs(planned, starts, tmp_path / "faulty", EVERY) == found


def test_the_schedule_follows_from_its_seed() -> None:
    planned, steps = schedule(18, None, 5, 1, 2)
    assert (planned, steps) == schedule(18, None, 5, 1, 2) != schedule(18, None, 5, 2, 2)
    assert sorted(fault.kind for fault in planned) == sorted(KINDS * 2)
    assert {fault.rank for fault in planned} == {0, 1}
    at = [fault.step for fault in planned]
    # Far enough from each other for a save between them, and for one more after a damaged checkpoint.
    assert min(later - earlier for earlier, later in pairwise(at)) > 5
    assert at[0] > 10 and at[-1] < steps - 5
    with pytest.raises(UserError, match="--steps 50: too few for 18 faults, take 257"):
        schedule(18, 50, 5, 1, 2)


def test_a_run_understands_its_faults() -> None:
    planned, _ = schedule(len(KINDS), None, 5, 1, 2)
    faults = parse_faults({VARIABLE: faults_text(planned, TIMELINE, KINDS)})
    assert {fault.kind for fault in faults} == {*KINDS, "corrupted_samples"} - {"spike"}
    once = {fault.kind for fault in faults if fault.once}
    # What belongs to the samples and the steps happens whenever they are trained.
    assert once == {*KINDS} - {"spike", "nan"}
    marks = {fault.mark for fault in faults}
    assert all(fault.mark in marks for fault in planned if fault.kind in ENDING)


def test_the_samples_of_spikes() -> None:
    """The second one's have numbers beyond those that the first rollback leaves out."""
    planned = [each for each in schedule(18, None, 5, 1, 2)[0] if each.kind == "spike"]
    first, second = (each.step for each in planned)
    ranges = left_out(planned, TIMELINE)
    assert ranges == [[8 * first - 16, 8 * first - 1], [8 * second, 8 * second + 15]]
    faults = parse_faults({VARIABLE: faults_text(planned, TIMELINE, ("spike",))})
    assert [[fault.sample, fault.last] for fault in faults] == [[last - 7, last] for _, last in ranges]


def test_what_may_be_lost() -> None:
    """With saves of steps 20, 25, 30."""
    may = {kind: allowed(Planned(kind, 33, 0), 5) for kind in KINDS}
    assert (may["kill"], may["hang"], may["exception"]) == (2, 2, 2)  # 31 and 32.
    assert may["damaged_checkpoint"] == 7  # From 26 on.
    assert may["full_disk"] == 5  # 31 to 35, which is not saved.
    assert may["spike"] == 3  # 31, 32 and 33 itself.
    assert allowed(Planned("spike", 31, 0), 5) == 6  # 30 is left out with it: back to 25.
    assert (may["terminate"], may["slow"], may["nan"]) == (0, 0, 1)
    assert allowed(Planned("kill", 31, 0), 5) == 0


def test_what_falls_short() -> None:
    planned, _ = schedule(len(KINDS), None, 5, 1, 2)
    fault = planned[0]
    good = Cost(fault.kind, fault.step, lost=2, allowed=2, recovery_s=30.0)
    told = shortcomings(planned, [good], 60)
    assert len(told) == len(planned) - 1 and all("never happened" in each for each in told)
    assert shortcomings([fault], [good], 60) == []
    worse = Cost(fault.kind, fault.step, lost=3, allowed=2, recovery_s=61.0)
    assert [each.split(": ")[1] for each in shortcomings([fault], [worse], 60)] == [
        "recovery took 61.0 s, more than 60",
        "3 steps lost, at most 2 should be",
    ]


def test_the_exit_code_that_counts() -> None:
    assert [as_job(codes) for codes in ([0, 0], [3, 3], [1, 2], [4, 1], [1, -9], [5, 5], [3, 1])] == [
        *(0, 3, 2, 4, -9, 5, 1)
    ]
