"""The command line that compares two evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.report.document_scores import DocumentScores, write_document_scores
from tests.support.spy import ENGINE, Spied, spy


def write(directory: Path, model: str, **tasks: str) -> Path:
    marks = {
        task: {"acc,none": {f"{i}:x": float(mark) for i, mark in enumerate(of_task)}}
        for task, of_task in tasks.items()
    }
    write_document_scores(DocumentScores(model, marks, {"mmlu": ["a", "b"]}), directory)
    return directory.with_suffix(".json")


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    first = write(tmp_path / "first", "m", a="1010", b="0000", boolq="0101")
    second = write(tmp_path / "second", "n", a="1011", b="0111", boolq="0101")
    return [str(first), str(second)]


def compare_evals(*arguments: str) -> Spied:
    (done,) = spy(["tools.compare_evals", *arguments])
    assert not done.imported & ENGINE
    return done


def test_the_table(pair: list[str]) -> None:
    assert compare_evals(*pair).out.splitlines() == [
        "| task  | metric |     m |     n |      difference | detectable | better | worse |   n |",
        "| ----- | ------ | ----: | ----: | --------------: | ---------: | -----: | ----: | --: |",
        "| mmlu  | acc    | 25.00 | 75.00 | +50.00 ± 18.90* |      52.94 |      4 |     0 |   8 |",
        "| boolq | acc    | 50.00 | 50.00 |   +0.00 ± 0.00  |       0.00 |      0 |     0 |   4 |",
    ]
    assert [line.split()[1] for line in compare_evals(*pair, "--members").out.splitlines()[2:]] == [
        "mmlu",
        "a",
        "b",
        "boolq",
    ]


def test_json(pair: list[str]) -> None:
    found = json.loads(compare_evals(*pair, "--json").out)
    assert found["models"] == ["m", "n"] and found["left_out"] == []
    mmlu = found["rows"][0]
    assert (mmlu["task"], mmlu["difference"], mmlu["significant"]) == ("mmlu", 0.5, True)
    assert mmlu["minimal_detectable_effect"] == pytest.approx(2.80159 * mmlu["stderr"], rel=1e-4)


def test_nothing_in_common_is_refused(pair: list[str], tmp_path: Path) -> None:
    other = write(tmp_path / "other", "o", wic="1")
    done = compare_evals(pair[0], str(other))
    assert done.code == 2 and done.err.count("\n") == 1 and "a: o has no scores of it" in done.err


def test_models_of_the_same_name_are_called_by_their_files(pair: list[str], tmp_path: Path) -> None:
    other = str(write(tmp_path / "other", "m", boolq="0111", wic="1"))
    header = compare_evals(pair[0], other).out.splitlines()[0]
    assert header.split("|")[3:5] == [f" {pair[0]} ", f" {other} "]
    found = json.loads(compare_evals(pair[0], other, "--json").out)
    assert found["models"] == [pair[0], other]
    assert ["wic", f"{pair[0]} has no scores of it"] in found["left_out"]
    done = compare_evals(pair[0], pair[0])
    assert (done.code, done.err) == (2, f"error: {pair[0]} is given twice\n")
