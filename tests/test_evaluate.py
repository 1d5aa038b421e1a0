"""python -m recipes.evaluate as users start it: where the results go, and what they would overwrite."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from pathlib import Path

import pytest

from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.evaluate import run
from recipes.report.evaluation_result import EvaluationResult, TaskResult, read_results, write_results
from tests.support.nemo_files import MAIN


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


def test_only_a_repetition_writes_over_results(
    tmp_path: Path, benchmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.nemo"
    tarfile.open(model, "w").close()
    output = tmp_path / "evaluation" / "model.json"
    assert evaluate(model, benchmark, "dry_run=true") == 0 and not output.parent.exists()
    task = TaskResult(scores={}, n=1)
    tasks = {"minibench_en": task, "minibench_hi": task}
    settings = {"limit": None, "num_fewshot": 0, "bootstrap_iters": 1000}
    write_results(EvaluationResult("model", list(tasks), tasks, settings), output)
    before = output.read_bytes()
    for setting, there in (
        ("limit=1", "limit=null"),
        ("num_fewshot=2", "num_fewshot=0"),
        ("tasks=[minibench_en]", r"tasks=\[minibench_en, minibench_hi\]"),
    ):
        message = rf"^{output} holds the results of another evaluation \({there}\); choose .*output=\.\.\."
        with pytest.raises(UserError, match=message):
            evaluate(model, benchmark, setting)
    with pytest.raises(UserError, match=r"another evaluation \(name=model\)"):
        evaluate(model, benchmark, "name=other", f"output={output}")
    with pytest.raises(UserError, match=r"is not an evaluation result: .*; choose another file, output="):
        evaluate(model, benchmark, f"output={benchmark}/en.jsonl")
    assert evaluate(model, benchmark, "bootstrap_iters=0", "dry_run=true") == 0
    assert evaluate(model, benchmark, "limit=1", f"output={tmp_path}/other.json", "dry_run=true") == 0
    assert output.read_bytes() == before


def test_the_table_is_printed_though_the_write_fails(
    tmp_path: Path, benchmark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the tasks are read, after the output was tried, its directory becomes a file."""
    model, place, items = MAIN / "model.nemo", tmp_path / "place", benchmark / "en.jsonl"
    text = items.read_text(encoding="utf-8")
    items.unlink()
    os.mkfifo(items)

    def spoil() -> None:
        with items.open("w", encoding="utf-8") as stream:  # waits for the reader
            place.write_text("")
            stream.write(text)

    thread = threading.Thread(target=spoil, daemon=True)
    thread.start()
    with pytest.raises(UserError, match=f"{place}: a file is there"):
        evaluate(model, benchmark, f"output={place}/x.json")
    thread.join()
    assert "| minibench_hi | acc " in capsys.readouterr().out

    for path in (place, items):
        path.unlink()
    items.write_text(text, encoding="utf-8")
    for _ in range(2):  # the second time over the first's
        assert evaluate(model, benchmark, f"output={place}/x.json") == 0
    assert capsys.readouterr().out.count(f"results: {place}/x.json") == 2
    assert read_results(place / "x.json").requested == ["minibench_en", "minibench_hi"]
    with pytest.raises(UserError, match="holds the results of another evaluation"):
        evaluate(model, benchmark, f"output={place}/x.json", "limit=1")
