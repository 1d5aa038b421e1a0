"""Samples left out by hand, in runs that are resumed."""

from __future__ import annotations

from pathlib import Path

from tests.support.corpus import TinyData
from tests.support.fault_cases import faulty_case
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case


def run(pool: GlooPool, data: TinyData, output_dir: Path, steps: int, skip: str) -> Outcome:
    settings = data.overrides(
        output_dir=str(output_dir), save_nemo="false", data__valid="{}", trainer__max_steps=str(steps)
    )
    return pool.run(1, run_case, [*settings, f"data.skip={skip}"])[0]


def test_resume_is_exact_and_the_past_stays(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    plain = run(gloo_pool, tiny_data, tmp_path / "plain", 8, "[]")
    whole = run(gloo_pool, tiny_data, tmp_path / "whole", 8, "[[16,23],[50,51]]")
    same = [step for step, loss in plain.losses.items() if whole.losses[step] == loss]
    assert same == [1, 2], "the third step's samples are left out"
    # The second range is added when the samples before it have been read.
    first = run(gloo_pool, tiny_data, tmp_path / "run", 4, "[[16,23]]")
    refused = run(gloo_pool, tiny_data, tmp_path / "run", 8, "[[8,15],[16,23]]")
    assert refused.code == 2 and "has read the samples before 40 and left out [[16, 23]]" in refused.message
    resumed = run(gloo_pool, tiny_data, tmp_path / "run", 8, "[[16,23],[50,51]]")
    assert first.code == resumed.code == 0
    assert resumed.losses == whole.losses


def test_what_a_skipped_step_names_can_be_left_out(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Its numbers are those of data.skip, also where samples before it are left out."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path), save_nemo="false", data__valid="{}", trainer__max_steps="4"
    )
    (outcome,) = gloo_pool.run(1, faulty_case, [*settings, "data.skip=[[2,3],[9,11]]"], "nan:step=2")
    (event,) = [record for record in outcome.metrics if record.get("event") == "skipped_step"]
    assert event["samples"] == [13, 20]
