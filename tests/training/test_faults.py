"""Faults on purpose: how they are spelled, and that each of them happens."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.training.faults import VARIABLE, Fault, parse_faults
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends, faulty_case, start_ranks
from tests.support.pool import CaseFailed, GlooPool
from tests.support.run_cases import run_case


def test_spelling() -> None:
    text = "nan:step=3 ; slow: rank=1, step=2, until=4, seconds=0.5;"
    assert parse_faults({VARIABLE: text}) == [Fault("nan", 3, 3), Fault("slow", 2, 4, rank=1, seconds=0.5)]
    assert parse_faults({}) == parse_faults({VARIABLE: ""}) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nann:step=1", "did you mean nan?"),
        ("nan:stepp=1", "did you mean step?"),
        ("nan", "step=N is missing"),
        ("nan:rank=1", "step=N is missing"),
        ("nan:step=x", "write step=NUMBER"),
        ("nan:step", "write step=NUMBER"),
        ("nan:step=-1", "must not be negative"),
        ("nan:step=1,once=2", "once=0 or once=1"),
        ("nan:step=0", "nan:step=0: steps count from 1"),
        ("nan:step=3,until=2", "nan:step=3,until=2: until comes before step"),
        ("corrupted_samples:sample=9,last=3", "last comes before sample"),
        ("nan:step=3,seconds=4", "nan: option=seconds: choose one of step, until, rank, once"),
        ("full_disk:step=3,until=5", "full_disk: option=until: choose one of step, rank, once, bytes"),
        ("corrupted_samples:sample=1,last=3,rank=1", "option=rank: choose one of sample, last"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UserError, match=VARIABLE) as refused:
        parse_faults({VARIABLE: text})
    assert message in str(refused.value)


def settings(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    more = {"save_nemo": "false", "data__valid": "{}", "trainer__max_steps": "5"} | changes
    return data.overrides(output_dir=str(output_dir), **more)


def test_a_misspelled_one_starts_no_run(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    (outcome,) = gloo_pool.run(1, faulty_case, settings(tiny_data, tmp_path), "explode:step=1")
    assert outcome.code == 2 and outcome.message.startswith(f"{VARIABLE}=explode: choose one of nan, ")
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nan:step=6", "nan: step=6: the run has 5 steps"),
        ("hang:step=3,rank=1", "hang: rank=1: the run has 1 process, from 0 on"),
    ],
)
def test_one_that_would_never_come_starts_no_run(
    text: str, why: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Or the guard would seem to have passed."""
    (outcome,) = gloo_pool.run(1, faulty_case, settings(tiny_data, tmp_path), text)
    assert (outcome.code, outcome.message) == (2, f"{VARIABLE}: {why}")
    assert not (tmp_path / "tiny").exists()


def test_a_checkpoint_that_is_not_there_cannot_be_damaged(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    (outcome,) = gloo_pool.run(1, faulty_case, settings(tiny_data, tmp_path), "damaged_checkpoint:step=2")
    assert (outcome.code, outcome.message) == (
        2,
        f"{VARIABLE}: damaged_checkpoint: there is none yet; name a step after a save",
    )


def test_exception(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(CaseFailed, match=r"rank 1:(.|\n)*InjectedError: asked for on rank 1 at step 3"):
        gloo_pool.run(2, faulty_case, settings(tiny_data, tmp_path), "exception:rank=1,step=3")


def test_kill(tiny_data: TinyData, tmp_path: Path) -> None:
    (rank,) = ends(start_ranks(settings(tiny_data, tmp_path), "kill:step=3", size=1))
    assert rank[0] == -signal.SIGKILL and "step       2/5" in rank[1] and "step       3/5" not in rank[1]


def test_corrupted_batch_and_flipped_bit(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    clean = gloo_pool.run(1, run_case, settings(tiny_data, tmp_path / "clean"))[0].losses
    for kind, first in (("corrupted_batch", 3), ("flipped_bit", 4)):
        (outcome,) = gloo_pool.run(1, faulty_case, settings(tiny_data, tmp_path / kind), f"{kind}:step=3")
        differ = [step for step, loss in outcome.losses.items() if loss != clean[step]]
        assert differ == list(range(first, 6)), (kind, differ)


def test_slow_rank(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    (outcome, _) = gloo_pool.run(
        2, faulty_case, settings(tiny_data, tmp_path), "slow:rank=1,step=3,until=4,seconds=1.5"
    )
    took = {record["step"]: record["elapsed_s"] for record in outcome.metrics if "loss" in record}
    assert took[4] - took[2] > 3.0


def test_full_disk(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """No checkpoint of that step appears, all ranks say so and end alike."""
    outcomes = gloo_pool.run(
        2,
        faulty_case,
        settings(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="2"),
        "full_disk:step=3,bytes=100000",
    )
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    assert [path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()] == ["step_00000002"]


@pytest.mark.slow
def test_hang_ends_all_ranks_with_their_stacks(tiny_data: TinyData, tmp_path: Path) -> None:
    run = settings(tiny_data, tmp_path, trainer__guards__hang_timeout_s="10")
    began = time.monotonic()
    outcomes = ends(start_ranks(run, "hang:rank=1,step=3"))
    assert [code for code, _, _ in outcomes] == [5, 5], outcomes
    assert time.monotonic() - began > 10
    logs = tmp_path / "tiny" / "logs"
    stacks = [(logs / f"hang_rank_{rank}.txt").read_text() for rank in range(2)]
    assert all("nothing has ended for 10 s since step 2" in text for text in stacks)
    assert "_hang" in stacks[1] and "_hang" not in stacks[0] and "training_step" in stacks[0]
    for rank, (_, _, err) in enumerate(outcomes):
        assert f"rank {rank}: nothing has ended for 10 s since step 2" in err


def test_once(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """The run that is started again does not meet it, and ends as if it had not been."""
    clean = gloo_pool.run(2, run_case, settings(tiny_data, tmp_path / "clean"))[0].losses
    run, fault = settings(tiny_data, tmp_path / "faulty"), "terminate:rank=1,step=2,once=1"
    assert [outcome.code for outcome in gloo_pool.run(2, faulty_case, run, fault)] == [3, 3]
    again = gloo_pool.run(2, faulty_case, run, fault)[0]
    assert again.code == 0 and again.losses == clean
    assert (tmp_path / "faulty/tiny/logs/fault_terminate_rank_1_step_2").exists()


def test_damaged_checkpoint(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Of the newest, one bit: the next start passes it over."""
    run = settings(
        tiny_data, tmp_path, trainer__checkpoint__every_n_steps="2", trainer__checkpoint__keep_last="2"
    )
    with pytest.raises(CaseFailed, match="InjectedError"):
        gloo_pool.run(1, faulty_case, run, "damaged_checkpoint:step=5; exception:step=5")
    (again,) = gloo_pool.run(1, run_case, run)
    assert again.code == 0 and "step_00000004 is passed over: " in again.stderr
    assert "resume" in again.stdout and "step_00000002, step 2," in again.stdout
