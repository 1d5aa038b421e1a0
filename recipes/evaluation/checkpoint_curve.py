"""The checkpoints of a run, scored one after the other: which they are, and their scores as a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.config.schema import EvaluateConfig
from recipes.errors import UserError
from recipes.report.evaluation_result import EvaluationResult
from recipes.report.evaluation_table import MISSING, TableSpec, tabulate
from recipes.report.markdown import markdown_table
from recipes.report.run_data import Series
from recipes.run_directory import RunDirectory, read_metrics


def of_checkpoints(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The evaluations of a run's checkpoints, oldest first.

    Raises:
        UserError: the run has none.
    """
    assert config.run is not None
    found = finished_checkpoints(RunDirectory(Path(config.run)).checkpoints)
    if not found:
        raise UserError(f"run={config.run}: the run has no finished checkpoint yet")
    if config.checkpoints not in (None, "all"):
        found = found[-int(str(config.checkpoints)) :]
    return [replace(config, gpt_model_file=str(path), run=None, checkpoints=None) for path in found]


def render_curve(run: Path, results: Sequence[EvaluationResult], spec: TableSpec) -> str:
    """A line for each checkpoint, oldest first: its step, the tokens it was trained on, its scores.

    Args:
        run: the run's directory.
        results: named after the checkpoints, step_00001000.
        spec: the table whose rows become columns.
    """
    consumed = Series()
    for record in read_metrics(RunDirectory(run).metrics_file):
        if record["step"] and "consumed_tokens" in record:
            consumed.add(record["step"], record["consumed_tokens"])
    rows = [replace(row, published=[]) for row in spec.rows]
    by_metric = tabulate(results, TableSpec(rows))
    scores = zip(*(line[2 : 2 + len(results)] for line in by_metric.lines), strict=True)
    lines = []
    for result, of_checkpoint in zip(results, scores, strict=True):
        step = int(result.model.removeprefix("step_").removesuffix("-ema"))
        tokens = f"{consumed.at(step):,.0f}" if len(consumed) else MISSING
        lines.append([f"{step:,}", tokens, *of_checkpoint])
    header = ["step", "tokens", *(f"{name} {metric}" for name, metric, *_ in by_metric.lines)]
    return "\n".join(markdown_table(header, lines)) + "\n"
