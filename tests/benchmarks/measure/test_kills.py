"""Twenty kills of two processes; and what the tool tells them apart by."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measure.kills import (
    DELETION,
    PUBLICATION,
    SAVE,
    START_UP,
    STEP,
    killed_run,
    schedule,
    what_was_running,
)
from benchmarks.measure.lives import Life, Recorded, differences, undisturbed
from recipes.checkpoint.save.manifest import MANIFEST
from recipes.errors import UserError
from tests.support.corpus import TinyData
from tests.support.fault_cases import Ranks

EVERY, STEPS = 3, 130


@pytest.mark.slow
def test_twenty_kills_of_two_ranks(tiny_data: TinyData, tmp_path: Path) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        trainer__val_check_interval="10",
        trainer__limit_val_batches="1",
        trainer__max_steps=str(STEPS),
        trainer__checkpoint__every_n_steps=str(EVERY),
        trainer__checkpoint__async_save="true",
        optim__lr_decay_steps=str(STEPS),
    )

    def launch(name: str) -> Callable[[], Life]:
        return lambda: Ranks([*settings, f"name={name}"])

    whole = undisturbed(launch("whole"), tmp_path / "whole")
    kills = killed_run(launch("killed"), tmp_path / "killed", schedule(20, STEPS, 1, 5 * EVERY), whole, EVERY)
    assert len(kills) == 20 and {START_UP, SAVE} < {kill.running for kill in kills}
    assert max(kill.step for kill in kills) > STEPS // 2
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    # The comparison sees a single bit.
    metrics = tmp_path / "killed" / "metrics.jsonl"
    lines = metrics.read_text("utf-8").splitlines()
    place = max(place for place, line in enumerate(lines) if '"loss"' in line)
    record = json.loads(lines[place])
    lines[place] = json.dumps(record | {"loss": math.nextafter(record["loss"], 0)})
    metrics.write_text("\n".join(lines), "utf-8")
    (found,) = differences(tmp_path / "whole", tmp_path / "killed")
    assert found.startswith(f"step {record['step']}: ")


def test_the_schedule_follows_from_its_seed() -> None:
    moments = schedule(100, 520, 1, 20)
    assert moments == schedule(100, 520, 1, 20) != schedule(100, 520, 2, 20)
    steps = [moment.step for moment in moments if moment.step is not None]
    assert steps == sorted(set(steps)) and steps[0] > 0 and steps[-1] < 500
    assert 5 < sum(moment.step is None for moment in moments) < 30
    with pytest.raises(UserError, match="--steps 50: too few for 100 kills, take 520"):
        schedule(100, 50, 1, 20)


def test_what_was_running(tmp_path: Path) -> None:
    def is_running(trained: bool = True) -> str:
        return what_was_running(tmp_path, trained)

    (tmp_path / "step_00000004").mkdir()
    (tmp_path / "step_00000004" / MANIFEST).touch()
    assert is_running() == STEP
    partial = tmp_path / ".step_00000008.partial"
    partial.mkdir()
    assert is_running() == SAVE and is_running(trained=False) == START_UP
    (partial / MANIFEST).touch()
    assert is_running() == PUBLICATION
    shutil.rmtree(partial)
    (tmp_path / "step_00000004" / MANIFEST).unlink()
    assert is_running() == DELETION


def test_only_whole_lines_of_this_life_count(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert Recorded(metrics).last() is None
    metrics.write_text('{"step": 7, "loss": 1.0}\n', "utf-8")
    recorded = Recorded(metrics)
    assert recorded.last() is None
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"event": "resumed", "step": 4}\n{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    assert recorded.last() == 5
