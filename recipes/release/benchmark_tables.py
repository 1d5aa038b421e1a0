"""The evaluations of a released model as tables, with published figures where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.config.evaluation_tables import read_table
from recipes.config.jobs import group_options
from recipes.config.schema import TableRow
from recipes.console import warn
from recipes.evaluation.kept_results import model_files
from recipes.release.finished_run import FinishedRun
from recipes.report.evaluation_result import EvaluationResult
from recipes.report.evaluation_table import TableSpec, render
from recipes.report.run_data import RunData


@dataclass(frozen=True)
class BenchmarkTable:
    """One evaluation."""

    title: str
    how: str
    """In words: solved examples, documents, versions."""
    markdown: str


def benchmark_tables(run: FinishedRun, report: RunData) -> list[BenchmarkTable]:
    """The tables of those results in the run's evaluation/ that are of exactly the released weights."""
    weights = {model_files(run.checkpoint)}
    if run.nemo is not None:
        weights.add(model_files(run.nemo))
    found = [
        _table(run, result)
        for result in report.evaluations.values()
        if result.settings.get("model_files") in weights
    ]
    if report.evaluations and not found:
        warn(
            f"{run.directory.path / 'evaluation'}: no results there are of the released weights as they lie "
            f"there now; evaluate {run.nemo or run.checkpoint} to have a table in the card"
        )
    return found


def _table(run: FinishedRun, result: EvaluationResult) -> BenchmarkTable:
    title, spec = _published(result)
    return BenchmarkTable(title, _how(result), render([result], spec, labels=[run.name]))


def _published(result: EvaluationResult) -> tuple[str, TableSpec]:
    """The table of conf/eval with the most published figures, or else rows, for a result; cut to its tasks.

    Without one, every metric has a row.
    """
    found = [(", ".join(result.requested), TableSpec([]))]
    for name in group_options("eval"):
        table = read_table("eval", name)
        rows = [TableRow(**row) for row in table.get("rows") or [] if row["task"] in result.requested]
        # Figures with another number of solved examples are no comparison.
        if rows and table.get("num_fewshot") == result.settings.get("num_fewshot"):
            found.append((name, TableSpec(rows, list(table.get("columns") or []))))

    def figures(entry: tuple[str, TableSpec]) -> tuple[int, int]:
        rows = entry[1].rows
        return sum(bool(row.published) for row in rows), len(rows)

    return max(found, key=figures)


def _how(result: EvaluationResult) -> str:
    settings: dict[str, Any] = result.settings
    shots, limit = settings.get("num_fewshot") or 0, settings.get("limit")
    words = [f"{shots:,} solved examples" if shots else "zero-shot"]
    words.append(f"the first {limit:,} documents of each task" if limit is not None else "all documents")
    made = settings.get("versions") or {}
    words += [f"{package} {made[package]}" for package in ("lm_eval", "torch") if package in made]
    return ", ".join(words)
