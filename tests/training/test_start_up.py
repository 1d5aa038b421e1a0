"""What a run says of the time before its first step."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from recipes.training.start_up import StartUp
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


def test_parts_and_rest_are_the_whole() -> None:
    start_up = StartUp()
    for name in ("weights", "data", "weights"):
        with start_up.part(name):
            time.sleep(0.06)
    time.sleep(0.06)
    record = start_up.record()
    parts = record["start_up"]
    assert list(parts) == ["command", "weights", "data", "rest"]
    assert sum(parts.values()) == pytest.approx(record["start_up_s"], abs=0.01)
    assert parts["weights"] > parts["data"] >= 0.06 and parts["rest"] >= 0.06
    assert StartUp().record()["start_up"]["command"] == 0.0, "a second run counts from its own start"
    line = StartUp.line({"start_up_s": 75.0, "start_up": {"command": 0.01, "imports": 70.04, "rest": 4.96}})
    assert line == "first  step after 1m15s: imports 70.0, rest 5.0 s"


def test_runs_record_it(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """Each process of a run that is resumed."""
    base = {"output_dir": str(tmp_path), "save_nemo": "false", "optim__lr_decay_steps": "20"}
    for steps in ("2", "4"):
        settings = tiny_data.overrides(**base, trainer__max_steps=steps, trainer__log_every_n_steps="2")
        (outcome,) = gloo_pool.run(1, run_case, settings)
        assert outcome.code == 0, outcome.message
        assert sum(line.startswith("first  step after ") for line in outcome.stdout.splitlines()) == 1
    records = [record for record in outcome.metrics if record.get("event") == "first_step"]
    assert [record["step"] for record in records] == [1, 3]
    first, resumed = (record["start_up"] for record in records)
    assert {"checks", "imports", "model", "weights", "optimizer", "data", "first step"} <= set(first)
    assert "state" in resumed and "state" not in first
