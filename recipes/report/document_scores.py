"""What every document scored: kept beside an evaluation's results for comparisons, or read from lm-eval's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import UserError
from recipes.files import atomic_write, make_directory, path_errors

FILE = "documents.json"
FORMAT = 1
_HASH_CHARS = 16

TaskScores = dict[str, dict[str, float]]
"""Metric -> document -> score. A document is its number and the beginning of its hash, "12:0a1b...": the same
question has the same name wherever it is asked."""


@dataclass(frozen=True)
class DocumentScores:
    """The scores of one model."""

    model: str
    tasks: dict[str, TaskScores]
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Group -> its tasks."""


def scores_of_samples(samples: Iterable[Mapping[str, Any]]) -> TaskScores:
    """From lm-eval's samples of a task, {"doc_id", "doc_hash", "filter", "metrics", <metric>: value}.

    Metrics that are not one number per document (F1 and BLEU over all of them) are left out.
    """
    scores: TaskScores = defaultdict(dict)
    for sample in samples:
        document = f"{sample['doc_id']}:{sample['doc_hash'][:_HASH_CHARS]}"
        for metric in sample["metrics"]:
            if isinstance(value := sample[metric], int | float):
                scores[f"{metric},{sample['filter']}"][document] = float(value)
    return dict(scores)


def write_document_scores(scores: DocumentScores, directory: Path) -> None:
    """Writes the file of an evaluation, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    make_directory(directory)
    tasks = {}
    for task, metrics in scores.tasks.items():
        documents = list(dict.fromkeys(document for found in metrics.values() for document in found))
        tasks[task] = {
            "documents": documents,
            "scores": {
                metric: [found.get(document) for document in documents] for metric, found in metrics.items()
            },
        }
    fields = {"format": FORMAT, "model": scores.model, "groups": scores.groups, "tasks": tasks}
    with atomic_write(directory / FILE, "w") as stream:
        json.dump(fields, stream, ensure_ascii=False)


def read_document_scores(path: Path) -> DocumentScores:
    """The scores beside a result file (RESULT.json), in its directory, or in a directory that lm-eval wrote.

    Raises:
        UserError: there are none, or a file is something else.
    """
    directory = path.with_suffix("") if path.suffix == ".json" else path
    file = directory / FILE
    with path_errors(path):
        if file.is_file():
            return _read(file)
        samples = sorted(directory.rglob("samples_*.jsonl"))
    if not samples:
        raise UserError(
            f"{path}: no scores of single documents are here: neither {file} nor samples_*.jsonl, which "
            "lm-eval writes with --log_samples"
        )
    # samples_<task>_<date>.jsonl; of several dates the last.
    of_task = {file.stem.removeprefix("samples_").rpartition("_")[0]: file for file in samples}
    # One at a time: the files hold every prompt.
    scores = {task: scores_of_samples(_read_lines(file)) for task, file in of_task.items()}
    return DocumentScores(directory.name, scores, _lm_eval_groups(directory))


def _lm_eval_groups(directory: Path) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for file in sorted(directory.rglob("results_*.json")):
        try:
            members |= json.loads(file.read_text(encoding="utf-8"))["group_subtasks"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} is no result of lm-eval: {error}") from error

    def leaves(name: str) -> list[str]:
        return [leaf for part in members[name] for leaf in leaves(part)] if members.get(name) else [name]

    return {name: leaves(name) for name in members if members[name]}


def _read_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no file of lm-eval's samples: {error}") from error


def _read(file: Path) -> DocumentScores:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}")
        tasks = {
            task: {
                metric: {
                    document: float(value)
                    for document, value in zip(found["documents"], values, strict=True)
                    if value is not None
                }
                for metric, values in found["scores"].items()
            }
            for task, found in fields["tasks"].items()
        }
        groups = {group: [str(task) for task in members] for group, members in fields["groups"].items()}
        return DocumentScores(str(fields["model"]), tasks, groups)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} does not hold the scores of documents: {error}") from error
