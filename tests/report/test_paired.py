"""Comparisons of two models on the same documents."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.report.document_scores import (
    DocumentScores,
    read_document_scores,
    scores_of_samples,
    write_document_scores,
)
from recipes.report.paired import compare


def scores(model: str, **tasks: str) -> DocumentScores:
    """A digit per document."""
    return DocumentScores(
        model,
        {
            task: {"acc,none": {f"{i}:x": float(mark) for i, mark in enumerate(marks)}}
            for task, marks in tasks.items()
        },
        {"both": ["a", "b"]} if "b" in tasks else {},
    )


def test_the_error_is_that_of_the_differences() -> None:
    """1,000 documents, of which 58 are won and 42 lost: as McNemar's test sees it."""
    first = scores("m", a="1" * 500 + "0" * 500)
    second = scores("n", a="1" * 458 + "0" * 42 + "1" * 58 + "0" * 442)
    (found,), left_out = compare(first, second)
    assert (found.first, found.second, found.better, found.worse) == (0.5, 0.516, 58, 42)
    assert found.difference == pytest.approx(0.016) and left_out == []
    stderr = math.sqrt((100 / 1000 - 0.016**2) * 1000 / 999 / 1000)
    assert found.stderr == pytest.approx(stderr) and not found.significant
    assert found.detectable == pytest.approx(2.8016 * stderr, rel=1e-3)
    # Taken for independent, the same scores would have an error more than twice as large.
    assert stderr < 0.5 * math.sqrt(2 * 0.25 / 1000)
    (better,), _ = compare(first, scores("n", a="1" * 530 + "0" * 470))
    assert better.significant and better.worse == 0


def test_groups_pool_their_documents() -> None:
    found, left_out = compare(scores("m", a="10", b="1100"), scores("n", a="11", b="1111"))
    assert [(entry.task, entry.n, entry.difference) for entry in found] == [
        ("both", 6, 0.5),
        ("a", 2, 0.5),
        ("b", 4, 0.5),
    ]
    assert left_out == []


def test_what_only_one_has_is_told() -> None:
    first, second = scores("m", a="10", b="1", c="1"), scores("n", a="101", b="1", d="1")
    second.tasks["b"] = {"f1,none": {"0:x": 1.0}}
    found, left_out = compare(first, second)
    assert [(entry.task, entry.n, entry.unmatched) for entry in found] == [("a", 2, 1)]
    assert dict(left_out) == {
        "both": "no metric in common is a number for each document",
        "b": "no metric in common is a number for each document",
        "c": "n has no scores of it",
        "d": "m has no scores of it",
    }
    (one,), _ = compare(scores("m", a="1"), scores("n", a="0"))
    assert (one.difference, one.stderr, one.detectable, one.significant) == (-1.0, None, None, False)
    other = DocumentScores("n", {"a": {"acc,none": {"0:y": 1.0}}})
    assert compare(scores("m", a="1"), other) == ([], [("a", "acc,none: the documents are not the same")])


SAMPLES = [
    {
        "doc_id": i,
        "doc_hash": "f" * 64,
        "filter": "none",
        "metrics": ["acc", "f1"],
        "acc": i % 2,
        "f1": (0, i),
    }
    for i in range(4)
]


def test_scores_survive_their_file(tmp_path: Path) -> None:
    held = DocumentScores("पराम", {"boolq": scores_of_samples(SAMPLES)}, {"all": ["boolq"]})
    assert held.tasks["boolq"] == {
        "acc,none": {f"{i}:{'f' * 16}": float(i % 2) for i in range(4)}
    }  # f1 is no number of a document.
    write_document_scores(held, tmp_path / "model-boolq")
    assert read_document_scores(tmp_path / "model-boolq.json") == held
    assert read_document_scores(tmp_path / "model-boolq") == held


def test_files_of_lm_eval_are_read(tmp_path: Path) -> None:
    directory = tmp_path / "theirs" / "meta-llama__Llama"
    directory.mkdir(parents=True)
    for date, samples in (("2026-01-01T00-00-00.1", SAMPLES[:1]), ("2026-02-01T00-00-00.1", SAMPLES)):
        lines = "\n".join(map(json.dumps, samples)) + "\n"
        (directory / f"samples_arc_easy_{date}.jsonl").write_text(lines)
        (directory / f"results_{date}.json").write_text(
            json.dumps({"group_subtasks": {"all": ["ai2_arc"], "ai2_arc": ["arc_easy"], "arc_easy": []}})
        )
    found = read_document_scores(tmp_path / "theirs")
    assert found.tasks == {"arc_easy": scores_of_samples(SAMPLES)}
    assert found.groups == {"all": ["arc_easy"], "ai2_arc": ["arc_easy"]}


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scores of single documents .*--log_samples"):
        read_document_scores(tmp_path / "absent.json")
    (tmp_path / "x").mkdir()
    for text in ("{", "[]", '{"format": 1}', '{"format": 2}'):
        (tmp_path / "x" / "documents.json").write_text(text)
        with pytest.raises(UserError, match="does not hold the scores of documents"):
            read_document_scores(tmp_path / "x.json")
