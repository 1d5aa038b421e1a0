"""python -m recipes.evaluate as users start it: where the results go, and what they would overwrite."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.evaluate import run
from recipes.evaluation.journal import Answers, JournalWriter
from recipes.report.evaluation_result import read_results
from tests.support.nemo_files import MAIN
from tests.support.spy import ENGINE, spy


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    directory = tmp_path / "benchmark"
    directory.mkdir()
    item = {
        "id": "1",
        "kind": "fact",
        "question": "Ice is",
        "choices": ["cold", "hot", "a", "b"],
        "answer": 0,
    }
    for language in ("en", "hi"):
        (directory / f"{language}.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    return directory


def evaluate(model: Path, benchmark: Path, *settings: str) -> int:
    common = [f"gpt_model_file={model}", "eval=minibench", f"minibench={benchmark}", "num_threads=1"]
    return run(compose("evaluate", [*common, *settings]))


@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_the_output_is_tried_before_the_model_is_read(tmp_path: Path, benchmark: Path, dry_run: str) -> None:
    model, file = tmp_path / "no_model.nemo", tmp_path / "file"
    tarfile.open(model, "w").close()
    file.write_text("")
    with pytest.raises(UserError, match=f"^cannot write {file}/x.json: "):
        evaluate(model, benchmark, f"output={file}/x.json", f"dry_run={dry_run}")


def test_a_typing_mistake_is_told_before_all_else(tmp_path: Path, benchmark: Path) -> None:
    with pytest.raises(UserError, match=r"^lm-eval has no task 'arc_eazy': did you mean arc_easy"):
        evaluate(tmp_path / "no_model.nemo", benchmark, "tasks=[minibench_en,arc_eazy]", "limit=-1")


def test_the_table_is_printed_though_the_write_fails(
    tmp_path: Path,
    benchmark: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the model answers, the output's directory becomes a file."""
    place, add = tmp_path / "place", JournalWriter.add

    def add_and_spoil(self: JournalWriter, unit: str, answers: Answers) -> None:
        add(self, unit, answers)
        place.rename(tmp_path / "moved")
        place.write_text("")

    monkeypatch.setattr(JournalWriter, "add", add_and_spoil)
    with pytest.raises(UserError, match=f"{place}: a file is there"):
        evaluate(MAIN / "model.nemo", benchmark, f"output={place}/x.json")
    assert "| minibench_hi | acc " in capsys.readouterr().out


def test_finished_results_are_kept(
    tmp_path: Path, benchmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.nemo"
    shutil.copyfile(MAIN / "model.nemo", model)
    assert evaluate(model, benchmark) == 0
    results = tmp_path / "evaluation" / "model-minibench.json"
    table, _, told = capsys.readouterr().out.rpartition("results: ")
    assert told == f"{results}\n" and read_results(results).requested == ["minibench_en", "minibench_hi"]
    before = results.read_bytes()
    (again,) = spy(
        ["recipes.evaluate", f"gpt_model_file={model}", "eval=minibench", f"minibench={benchmark}"]
    )
    assert (again.code, again.err, again.imported & ENGINE) == (0, "", set())
    assert (
        again.out
        == f"{table}results: {results}, evaluated before; repeat=true evaluates again, into another file\n"
    )
    assert evaluate(model, benchmark, "limit=1") == 0
    assert results.read_bytes() == before and results.with_stem("model-minibench-limit1").exists()
