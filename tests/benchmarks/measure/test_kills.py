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
    Journal,
    Kill,
    Moment,
    killed_run,
    schedule,
    what_was_running,
)
from benchmarks.measure.lives import Life, Recorded, Whole, compare_figures, differences, undisturbed
from recipes.checkpoint.save.manifest import MANIFEST
from recipes.cli import DONE
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

    journal = Journal(tmp_path / "kills.jsonl")
    journal.begin(undisturbed(launch("whole"), tmp_path / "whole"))
    moments = schedule(20, STEPS, 1, 5 * EVERY)
    killed_run(launch("killed"), tmp_path / "killed", moments, EVERY, journal)
    kills = Journal(journal.path).kills
    assert kills == journal.kills and [kill.equal for kill in kills] == sorted(kill.equal for kill in kills)
    assert len(kills) == 20, "the run came to its end first"
    assert {START_UP, SAVE} < {kill.running for kill in kills}
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


class EndedLife(Life):
    """A run that was complete when it was started again."""

    def __init__(self, code: int) -> None:
        self.code = code

    def codes(self) -> list[int | None]:
        return [self.code]

    def kill(self) -> None:
        pass

    def output(self) -> str:
        return "complete" if self.code == DONE else "out of memory"


def test_a_run_may_end_before_all_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine so busy that a kill came late. What it has recorded is compared all the same."""
    journal = Journal(tmp_path / "kills.jsonl")
    journal.begin(Whole(tmp_path / "whole", 12.5, 0.25))
    journal.add(Kill(3.5, STEP, 520, 520, 17))
    moments = [Moment(500, 0.5), Moment(510, 0.5), Moment(None, 0.0)]
    killed_run(lambda: EndedLife(DONE), tmp_path, moments, 4, journal)
    assert capsys.readouterr().out.endswith("the run came to its end after 1 kill\n")
    for left in (moments[:2], [moments[0], moments[2]]):
        with pytest.raises(UserError, match=r"ended by itself.*: out of memory"):
            killed_run(lambda: EndedLife(1), tmp_path, left, 4, journal)


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


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "kills.jsonl")
    assert journal.whole is None and journal.kills == []
    whole, kill = Whole(tmp_path / "whole", 12.5, 0.25), Kill(3.5, SAVE, 9, 8, 17)
    journal.begin(whole)
    journal.add(kill)
    again = Journal(journal.path)
    assert (again.whole, again.kills) == (whole, [kill])


def test_figures_are_compared_while_a_run_goes_on(tmp_path: Path) -> None:
    def write(name: str, *lines: dict[str, float | str]) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text, "utf-8")
        return tmp_path / name

    steps: list[dict[str, float | str]] = [{"step": step, "loss": 1 / step} for step in range(1, 5)]
    whole = write("whole", *steps, {"step": 4, "valid.en.loss": 0.5})
    found = compare_figures(whole, write("run", *steps[:3], {"event": "resumed", "step": 2}, *steps[2:3]))
    assert (found.records, found.different) == (4, [])
    assert found.missing == ["step 4: no loss", "step 4: no validation"]
    found = compare_figures(whole, write("run", *steps[:2], {"step": 3, "loss": math.nextafter(1 / 3, 0)}))
    assert found.records == 3 and [line.split(":")[0] for line in found.different] == ["step 3"]
