"""Charts of benchmark scores against training tokens."""

from __future__ import annotations

from collections.abc import Mapping

from recipes.report.charts import COLOURS, Curve, LineChart, line_chart
from recipes.report.run_data import RunData, Series

_PLACE = "after {:,.0f} tokens"


def charts_of_run(run: RunData) -> list[LineChart]:
    """A chart for each task, with a curve for each of its metrics."""
    charts = [_chart(task, curves, _note(curves)) for task, curves in run.benchmarks.items()]
    return [chart for chart in charts if chart is not None]


def charts_of_runs(runs: Mapping[str, RunData]) -> list[LineChart]:
    """A chart for each task that several runs may have, of one metric, with a curve for each run."""
    charts = []
    for task in dict.fromkeys(task for run in runs.values() for task in run.benchmarks):
        metrics = list(dict.fromkeys(m for run in runs.values() for m in run.benchmarks.get(task, {})))
        metric = next((m for m in metrics if m.startswith("acc_norm")), metrics[0])
        curves = {label: run.benchmarks.get(task, {}).get(metric, Series()) for label, run in runs.items()}
        charts.append(_chart(task, curves, f"{metric}, against training tokens."))
    return [chart for chart in charts if chart is not None]


def _note(curves: Mapping[str, Series]) -> str:
    only = next(iter(curves)) if len(curves) == 1 else ""
    return f"{only}, against training tokens." if only else "Against training tokens."


def _chart(title: str, curves: Mapping[str, Series], note: str) -> LineChart | None:
    drawn = [
        Curve(label, curve.points, COLOURS[i % len(COLOURS)], markers=True)
        for i, (label, curve) in enumerate(curves.items())
    ]
    return line_chart(title, drawn, note=note, wide=False, place=_PLACE)
