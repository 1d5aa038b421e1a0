"""Where each figure of an evaluation comes from, as Markdown."""

from __future__ import annotations

from typing import Any

from recipes.report.evaluation_result import EvaluationResult, TaskResult
from recipes.report.evaluation_table import MISSING, figure_of
from recipes.report.markdown import markdown_table

_SHA_CHARS = 12


def details(result: EvaluationResult) -> str:
    """Every task's metrics, version, data and truncations; then what they were made with."""
    header = ["task", "metrics", "data set", "revision", "sha256", "version", "shots", "truncated", "n"]
    lines = [
        [
            name,
            _metrics(task),
            _data_set(task.data),
            (task.data.get("revision") or MISSING)[:_SHA_CHARS],
            _sha256(task.data),
            task.version or MISSING,
            MISSING if task.num_fewshot is None else str(task.num_fewshot),
            f"{task.truncated:,}",
            f"{task.n:,}",
        ]
        for name, task in result.tasks.items()
    ]
    facts = [f"- {name}: {_fact(value)}" for name, value in {**result.made_with, **_settings(result)}.items()]
    return "\n".join([*markdown_table(header, lines, texts=5), "", *facts]) + "\n"


def _metrics(task: TaskResult) -> str:
    cells = []
    for metric in task.scores:
        figure = figure_of(task, metric)
        assert figure is not None
        error = "" if figure.stderr is None else f" ± {figure.stderr:.2f}"
        cells.append(f"{metric.removesuffix(',none')} {figure.value:.2f}{error}")
    return "; ".join(cells) or MISSING


def _data_set(data: dict[str, Any]) -> str:
    if not data:
        return MISSING
    return data["data_set"] + (f", {data['configuration']}" if data.get("configuration") else "")


def _sha256(data: dict[str, Any]) -> str:
    """Of each split's file, its beginning: the result file has all of it."""
    return (
        ", ".join(f"{split} {sha[:_SHA_CHARS]}" for split, sha in data.get("sha256", {}).items()) or MISSING
    )


def _settings(result: EvaluationResult) -> dict[str, Any]:
    left_out = ("versions", "minibench_sha256")
    return {key: value for key, value in result.settings.items() if key not in left_out}


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(part)}" for key, part in value.items())
    return f"`{value}`" if isinstance(value, str) else MISSING if value is None else str(value)
