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
    assert told.splitlines()[0] == str(results) and read_results(results).requested == [
        "minibench_en",
        "minibench_hi",
    ]
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


def test_published_figures_are_checked(
    tmp_path: Path, benchmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, published = tmp_path / "model.nemo", tmp_path / "published.yaml"
    shutil.copyfile(MAIN / "model.nemo", model)
    items = benchmark / "en.jsonl"  # One of four is right, whatever the model answers.
    item = json.loads(items.read_text("utf-8"))
    items.write_text("\n".join(json.dumps(item | {"answer": answer}) for answer in range(4)), "utf-8")
    rows = "rows=[{name: English, task: minibench_en, metric: 'acc,none'}]"
    assert evaluate(model, benchmark, rows, "log_samples=true") == 0
    written = {
        path.name.partition("_2")[0] for path in (tmp_path / "evaluation" / "model-minibench").iterdir()
    }
    kinds = {"table.md", "chart.svg", "documents.json", "results"}
    assert written == kinds | {"samples_minibench_en", "samples_minibench_hi"}
    found = read_results(tmp_path / "evaluation" / "model-minibench.json")
    assert found.made_with["dtype"] == "float32" and "recipes" not in found.settings["versions"]

    # Of results that are there already, which are not made again.
    published.write_text("rows: {English: 25.0}")
    assert evaluate(model, benchmark, rows, f"check={published}") == 0
    assert "| English | yes    |" in capsys.readouterr().out
    published.write_text("rows: {English: 99.0}")
    with pytest.raises(UserError, match=rf"^check={published}: 1 of 1 rows differ .*: English \(-"):
        evaluate(model, benchmark, rows, f"check={published}")
    published.write_text("rows: {Englisch: 5}")
    with pytest.raises(UserError, match="no row is named 'Englisch'; did you mean English"):
        evaluate(tmp_path / "model.nemo", benchmark, rows, f"check={published}")
