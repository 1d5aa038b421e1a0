"""The page of one run: what its template, run.html, shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.counts import counted
from recipes.report.benchmark_charts import charts_of_run
from recipes.report.charts import (
    COLOURS,
    Bar,
    BarChart,
    BarGroup,
    Curve,
    Key,
    LineChart,
    Mark,
    bar_chart,
    line_chart,
)
from recipes.report.curves import smooth
from recipes.report.evaluation_table import tables_by_tasks
from recipes.report.figures import format_duration, format_number, format_percent
from recipes.report.rendering import Tile, write_page
from recipes.report.run_data import RunData, Series, number, read_run, whole

_LANGUAGES = {"en": "English", "hi": "Hindi"}
_MAX_COMPLETIONS = 50
_SHOWN_STEPS = 5  # of those at which a run made samples
_MAX_TEXT_CHARS = 4_000
_MAX_MARKS = 200
_PART_CHARTS = (
    ("Gradient norm by part", "grad_norm", "Before clipping."),
    ("Size of the update by part", "update_ratio", "2-norm of the change over that of the weights."),
    ("Weight norm by part", "weight_norm", ""),
    ("Experts", "moe", "max_load: tokens of the fullest expert over the mean, in the worst layer."),
)
_LESS_IS_BETTER = ("loss", "bits_per_byte", "ema_loss", "ema_bits_per_byte", "perplexity")


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt, at `step` of its training if that is known."""

    prompt: str
    text: str
    step: int | None = None


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the page of a run and returns its path.

    Args:
        run_dir: the run directory.
        out: where the page goes; None: ``run_dir/report.html``.

    Raises:
        UserError: there is no run in `run_dir`, or the page cannot be written.
    """
    run = read_run(run_dir)
    return write_page(
        out if out is not None else run_dir / "report.html",
        "recipes.report/run.html",
        title=f"{run.name}: run report",
        heading=run.name,
        subtitle=_subtitle(run),
        notes=notes_of(run),
        tiles=_tiles(run),
        loss=loss_chart(run),
        late_loss=_late_loss(run),
        throughput=_single_curve(
            run,
            "Throughput",
            "tokens_per_second",
            note="Tokens per second, over the whole job.",
            smoothed=True,
            from_zero=True,
        ),
        gradient_norm=_single_curve(
            run, "Gradient norm", "grad_norm", note="Before clipping.", smoothed=True
        ),
        learning_rate=learning_rate_chart(run),
        parts=[chart for chart in (_parts(run, *each) for each in _PART_CHARTS) if chart is not None],
        validation=_validation_lines(run),
        benchmarks=charts_of_run(run),
        evaluations=tables_by_tasks(list(run.evaluations.values()), list(run.evaluations)),
        accuracy=_accuracy(run),
        completions=_completions(run),
        samples=_samples(run),
        config=run.config,
    )


def set_name(name: str) -> str:
    """A validation set's or a language's name as it is shown."""
    return _LANGUAGES.get(name, name)


def _subtitle(run: RunData) -> str:
    hardware = run.summary.get("hardware")
    return "Training run" + (f" on {hardware}" if isinstance(hardware, str) and hardware else "")


def notes_of(run: RunData) -> list[str]:
    """What a reader of the curves should know first."""
    notes = list(run.notes)
    if run.non_finite:
        steps = ", ".join(f"{step:,}" for step in run.non_finite[:10])
        more = f" and {len(run.non_finite) - 10:,} more" if len(run.non_finite) > 10 else ""
        notes.append(f"The loss or the gradient norm was not a finite number at step {steps}{more}.")
    if run.unreadable_lines:
        lines = counted(run.unreadable_lines, "line")
        notes.append(f"{lines} of metrics.jsonl could not be read (left by a crash?) and left out.")
    return notes


def _tiles(run: RunData) -> list[Tile]:
    """The key figures."""
    samples = run.training["consumed_samples"].last
    tiles = [Tile("Steps", f"{run.last_step:,}", f"{format_number(samples)} samples" if samples else "")]
    tokens = run.training["consumed_tokens"].last
    if tokens is not None:
        tiles.append(Tile("Tokens", format_number(tokens), f"{tokens:,.0f}"))
    loss = final_loss(run)
    if loss is not None:
        first = format_number(run.training["loss"].values[0])
        tiles.append(Tile("Training loss", format_number(loss), f"smoothed, from {first}"))
    for name, metrics in list(run.valid.items())[:3]:
        if "loss" in metrics:
            bits = metrics["bits_per_byte"].last if "bits_per_byte" in metrics else None
            hint = f"{format_number(bits)} bits/byte" if bits is not None else ""
            value = format_number(metrics["loss"].values[-1])
            tiles.append(Tile(f"Validation, {set_name(name)}", value, hint))
    rate = tokens_per_second(run)
    if rate is not None:
        mfu = run.training["mfu"].median
        tiles.append(
            Tile("Tokens/s", format_number(rate), f"{mfu * 100:.1f}\u00a0% MFU" if mfu else "median")
        )
    memory = run.training["memory_bytes"].last
    if memory is not None:
        tiles.append(Tile("Memory", f"{memory / 2**30:.1f}\u00a0GiB", "first rank, at most"))
    wall = wall_time(run)
    if wall is not None:
        resumes = len(run.resumed)
        times = "once" if resumes == 1 else f"{resumes:,} times"
        hint = f"resumed {times}" if resumes else "without a resume"
        tiles.append(Tile("Wall time", format_duration(wall), hint))
    return tiles


def final_loss(run: RunData) -> float | None:
    """The training loss at the end, smoothed."""
    points = run.training["loss"].points
    return smooth(points)[-1][1] if points else None


def tokens_per_second(run: RunData) -> float | None:
    """The median over the logged steps."""
    return run.training["tokens_per_second"].median or number(run.summary.get("tokens_per_second"))


def wall_time(run: RunData) -> float | None:
    """Seconds that all processes of the run took together."""
    return number(run.summary.get("wall_s")) or run.elapsed_s


def loss_chart(run: RunData) -> LineChart | None:
    """The losses in training and on held-out text; None if there is none."""
    return _run_chart(run, "Loss", _loss_curves(run), note="Nats per token.")


def learning_rate_chart(run: RunData) -> LineChart | None:
    """The learning rate; None if it was not logged."""
    return _single_curve(run, "Learning rate", "lr", from_zero=True)


def _loss_curves(run: RunData) -> list[Curve]:
    points = run.training["loss"].points
    curves = [Curve("training", points, "raw"), Curve("training, smoothed", smooth(points), COLOURS[0])]
    for i, (name, metrics) in enumerate(run.valid.items()):
        if "loss" in metrics:
            colour = COLOURS[1 + i % (len(COLOURS) - 1)]
            label = f"validation, {set_name(name)}"
            curves.append(Curve(label, metrics["loss"].points, colour, markers=True))
            if "ema_loss" in metrics:
                label, points = f"{label}, averaged weights", metrics["ema_loss"].points
                curves.append(Curve(label, points, f"{colour} dashed", markers=True))
    return curves


def _late_loss(run: RunData) -> LineChart | None:
    """The flatter second half once more, if it has enough points."""
    curves, middle = _loss_curves(run), run.last_step // 2
    late = [replace(curve, points=[p for p in curve.points if p[0] >= middle]) for curve in curves]
    if len(curves[0].points) < 40 or len(late[0].points) < 20:
        return None
    return _run_chart(run, "Loss, second half", late, x_from=middle)


def _single_curve(
    run: RunData, title: str, key: str, *, note: str = "", smoothed: bool = False, from_zero: bool = False
) -> LineChart | None:
    points = run.training[key].points
    curves = [Curve(title.lower(), points, COLOURS[0])]
    if smoothed and len(points) >= 50:
        raw = Curve("per logged step", points, "raw")
        curves = [raw, Curve("smoothed", smooth(points), COLOURS[0])]
    return _run_chart(run, title, curves, note=note, wide=False, from_zero=from_zero)


def _parts(run: RunData, title: str, key: str, note: str) -> LineChart | None:
    """Curves of parts of the model; of its layers the first, the middle and the last."""
    parts = run.parts[key]
    layers = sorted({name.partition(".")[0] for name in parts if name.startswith("layer_")})
    shown = {layers[place * (len(layers) - 1) // 2] for place in range(3) if layers}
    names = [name for name in sorted(parts) if "." not in name or name.partition(".")[0] in shown]
    curves = [
        Curve(name.replace("_", " ").replace(".", ", "), parts[name].points, css)
        for name, css in zip(names, [*COLOURS, *(f"{css} dashed" for css in COLOURS)], strict=False)
    ]
    return _run_chart(run, title, curves, note=note, wide=False)


def _run_chart(run: RunData, title: str, curves: Sequence[Curve], **options: Any) -> LineChart | None:
    """A chart with the run's resumes and its steps that were not finite."""
    marks = [Mark(step, f"resumed at step {step:,}", "resume") for step in run.resumed[-_MAX_MARKS:]]
    marks += [Mark(step, f"not finite at step {step:,}", "bad") for step in run.non_finite[-_MAX_MARKS:]]
    return line_chart(title, curves, marks, **options)


def _validation_lines(run: RunData) -> list[list[str]]:
    """Of every validation metric: its set, its first, best and last value, and the last one's step."""
    return [
        [f"{set_name(name)}, {metric.replace('_', ' ')}", *_first_best_last(metric, curve)]
        for name, metrics in run.valid.items()
        for metric, curve in metrics.items()
    ]


def _first_best_last(metric: str, curve: Series) -> list[str]:
    best = format_number(min(curve.values)) if metric in _LESS_IS_BETTER else "–"
    return [format_number(curve.values[0]), best, format_number(curve.values[-1]), f"{curve.steps[-1]:,}"]


def _accuracy(run: RunData) -> tuple[BarChart, list[str]] | None:
    """Scores before and after training, against always giving the same answer; and the same in words."""
    scores = run.summary.get("accuracy")
    groups, readings = [], []
    for name, score in scores.items() if isinstance(scores, dict) else ():
        if isinstance(score, dict) and (after := number(score.get("after"))) is not None:
            group, reading = _score(set_name(name), score, after)
            groups.append(group)
            readings.append(reading)
    note = "Right answers in percent, with one standard error. Constant answer: always giving the same one."
    chart = bar_chart("Accuracy", groups, note=note, keys=[Key("baseline", "constant answer")])
    return (chart, readings) if chart is not None else None


def _score(name: str, score: dict[str, Any], after: float) -> tuple[BarGroup, str]:
    before = number(score.get("before"))
    stderr, constant = number(score.get("stderr")), number(score.get("constant_answer"))
    count = whole(score.get("n"))
    bars, asked = [], f" ({count:,} questions)" if count else ""
    if before is not None:
        # The file holds the error of the score after training; before it, the binomial one is exact enough.
        error = math.sqrt(max(0.0, before * (1 - before)) / count) if count and count > 0 else None
        bars.append(Bar("before training", before, "before", error))
    bars.append(Bar("after training", after, "after", stderr))

    reading = f"{name}{asked}: {format_percent(after)}"
    reading += f" ± {format_percent(stderr)}" if stderr is not None else ""
    reading += "\u00a0% after training"
    reading += f", {format_percent(before)}\u00a0% before" if before is not None else ""
    reading += f", {format_percent(constant)}\u00a0% by a constant answer" if constant is not None else ""
    verdict = _verdict(after, constant, stderr) if constant is not None else ""
    return BarGroup(name, bars, constant), f"{reading}. {verdict}".rstrip()


def _verdict(after: float, constant: float, stderr: float | None) -> str:
    if stderr is None:
        return ""
    difference = after - constant
    if abs(difference) <= 2 * stderr:
        return "That is within two standard errors of the constant answer: no evidence of learning yet."
    side = "above" if difference > 0 else "below"
    return f"That is more than two standard errors {side} the constant answer."


def _completions(run: RunData) -> list[Completion]:
    """What the model wrote in the end."""
    given = run.summary.get("completions")
    completions = []
    for entry in given[:_MAX_COMPLETIONS] if isinstance(given, list) else ():
        if isinstance(entry, dict):
            prompt, text = entry.get("prompt"), entry.get("completion")
            if isinstance(prompt, str) and isinstance(text, str):
                completions.append(Completion(_cut(prompt), _cut(text)))
    return completions


def _samples(run: RunData) -> list[Completion]:
    """What the model wrote while it was trained: at the first and last such step and some between."""
    steps = sorted({step for step, _, _ in run.samples})
    shown = {steps[place * (len(steps) - 1) // (_SHOWN_STEPS - 1)] for place in range(_SHOWN_STEPS) if steps}
    samples = [sample for sample in run.samples if sample[0] in shown][-_MAX_COMPLETIONS:]
    return [Completion(_cut(prompt), _cut(text), step) for step, prompt, text in samples]


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + " …"
