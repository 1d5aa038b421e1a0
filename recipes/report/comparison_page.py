"""The page of several runs: their curves over each other, and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.report.benchmark_charts import charts_of_runs
from recipes.report.charts import COLOURS, Curve, LineChart, line_chart
from recipes.report.curves import smooth
from recipes.report.evaluation_table import ResultTable, tables_by_tasks
from recipes.report.figures import distinct_labels, format_duration, format_number, format_percent
from recipes.report.rendering import write_page
from recipes.report.run_data import RunData, Series, read_run
from recipes.report.run_page import final_loss, notes_of, set_name, tokens_per_second, wall_time

_NONE = "–"


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page of several runs and returns its path.

    Args:
        run_dirs: the run directories; runs are called by the last part of their paths, or by the whole paths
            where that is the same for two of them.
        out: where the page goes; None: ``comparison.html`` in the first run directory.

    Raises:
        UserError: a directory has no run or is given twice, or the page cannot be written.
    """
    labels = distinct_labels(run_dirs, lambda path: path.resolve().name)
    runs = {label: read_run(path) for label, path in zip(labels, run_dirs, strict=True)}
    sets = list(dict.fromkeys(name for run in runs.values() for name in run.valid))
    return write_page(
        out if out is not None else run_dirs[0] / "comparison.html",
        "recipes.report/comparison.html",
        title=f"{len(runs)} runs compared",
        heading=f"{len(runs)} runs compared",
        subtitle=", ".join(runs),
        notes=[f"{label}: {note}" for label, run in runs.items() for note in notes_of(run)],
        header=["", *runs],
        lines=_final_figures(list(runs.values()), sets),
        loss=_chart(
            runs, "Training loss", _training_curve("loss"), note="Nats per token, smoothed.", wide=True
        ),
        validation=[
            _chart(runs, f"Validation loss, {set_name(name)}", _validation_curve(name), markers=True)
            for name in sets
        ],
        throughput=_chart(
            runs,
            "Throughput",
            _training_curve("tokens_per_second"),
            note="Tokens per second, over the whole job, smoothed.",
            from_zero=True,
        ),
        gradient_norm=_chart(
            runs, "Gradient norm", _training_curve("grad_norm"), note="Before clipping, smoothed."
        ),
        learning_rate=_chart(runs, "Learning rate", _training_curve("lr"), smoothed=False, from_zero=True),
        parts=[
            _chart(
                runs,
                "Size of the update",
                _training_curve("update_ratio"),
                note="2-norm of the change over that of the weights, smoothed.",
            ),
            _chart(runs, "Weight norm", _training_curve("weight_norm"), smoothed=False),
            _chart(
                runs,
                "Fullest expert",
                lambda run: run.parts["moe"].get("max_load", Series()),
                note="Its tokens over the mean, in the worst layer, smoothed.",
            ),
        ],
        benchmarks=charts_of_runs(runs),
        evaluations=_evaluation_tables(runs),
    )


def _final_figures(runs: Sequence[RunData], sets: Sequence[str]) -> list[list[str]]:
    """The name of a figure and its value in every run; losses are the last ones, speed is the median."""
    losses: dict[str, Callable[[RunData], float | None]] = {"Training loss, smoothed": final_loss}
    for name in sets:
        losses[f"Validation loss, {set_name(name)}"] = _last_of(name, "loss")
        losses[f"Bits per byte, {set_name(name)}"] = _last_of(name, "bits_per_byte")
        losses[f"Bits per byte, {set_name(name)}, averaged weights"] = _last_of(name, "ema_bits_per_byte")
    lines = [
        ["Steps", *(f"{run.last_step:,}" for run in runs)],
        ["Tokens", *(_shown(run.training["consumed_tokens"].last) for run in runs)],
        *([label, *(_shown(value_of(run)) for run in runs)] for label, value_of in losses.items()),
        ["Tokens/s", *(_shown(tokens_per_second(run)) for run in runs)],
        [
            "Tokens/s per device",
            *(_shown(run.training["tokens_per_second_per_device"].median) for run in runs),
        ],
        ["MFU", *(_shown(run.training["mfu"].median, _percent) for run in runs)],
        ["Memory", *(_shown(run.training["memory_bytes"].last, _gibibytes) for run in runs)],
        ["Wall time", *(_shown(wall_time(run), format_duration) for run in runs)],
    ]
    return [line for line in lines if set(line[1:]) != {_NONE}]


def _last_of(name: str, metric: str) -> Callable[[RunData], float | None]:
    return lambda run: run.valid.get(name, {}).get(metric, Series()).last


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.1f}\u00a0GiB"


def _percent(share: float) -> str:
    return f"{format_percent(share)}\u00a0%"


def _shown(value: float | None, format_value: Callable[[float], str] = format_number) -> str:
    return _NONE if value is None else format_value(value)


def _training_curve(key: str) -> Callable[[RunData], Series]:
    return lambda run: run.training[key]


def _validation_curve(name: str) -> Callable[[RunData], Series]:
    return lambda run: run.valid.get(name, {}).get("loss", Series())


def _chart(
    runs: dict[str, RunData],
    title: str,
    curve_of: Callable[[RunData], Series],
    *,
    note: str = "",
    wide: bool = False,
    from_zero: bool = False,
    smoothed: bool = True,
    markers: bool = False,
) -> LineChart | None:
    """One curve per run; those with `markers` as they were measured."""
    curves = []
    for i, (label, run) in enumerate(runs.items()):
        points = curve_of(run).points
        # The colours come a second time dashed.
        css = COLOURS[i % len(COLOURS)] + (" dashed" if i // len(COLOURS) % 2 else "")
        curves.append(Curve(label, smooth(points) if smoothed and not markers else points, css, markers))
    return line_chart(title, curves, note=note, wide=wide, from_zero=from_zero)


def _evaluation_tables(runs: dict[str, RunData]) -> list[ResultTable]:
    named = [
        (f"{label}, {name}", result)
        for label, run in runs.items()
        for name, result in run.evaluations.items()
    ]
    return tables_by_tasks([result for _, result in named], [name for name, _ in named])
