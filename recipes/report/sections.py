"""The parts of the report page; each returns HTML, or "" when the run has nothing for it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from typing import Any

from recipes.report.curves import Point, smooth
from recipes.report.run_data import RunData, Series, number, whole
from recipes.report.svg import Bar, BarGroup, Line, Mark, bar_chart, format_number, line_chart, needs_log

#: Colours of the validation sets; the training loss has c1.
_SET_COLOURS = ("c2", "c3", "c4", "c5")
_LANGUAGES = {"en": "English", "hi": "Hindi"}
_MAX_COMPLETIONS = 50
_SHOWN_STEPS = 5  # of those at which a run made samples
_MAX_TEXT_CHARS = 4_000
_MAX_MARKS = 200

# Control characters that HTML does not allow, and the ones that reorder the text around them.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_DEVANAGARI = re.compile("[\u0900-\u097f\ua8e0-\ua8ff]")


def printable(text: str) -> str:
    """`text` with every character that a page cannot show as itself replaced by U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


def duration(seconds: float) -> str:
    """Two units at most: 41 s, 3 min 20 s, 5 h 12 min, 9 d 4 h."""
    total = round(seconds)
    units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")]
    for (size, name), (small, small_name) in pairwise(units):
        if total >= size:
            rest = total % size // small
            return f"{total // size:,} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{total} s"


def tiles(run: RunData) -> str:
    """The key figures."""
    summary = run.summary
    entries: list[tuple[str, str, str]] = []

    samples = run.training["consumed_samples"].last
    entries.append(("Steps", f"{run.last_step:,}", f"{format_number(samples)} samples" if samples else ""))
    tokens = run.training["consumed_tokens"].last
    if tokens is not None:
        entries.append(("Tokens", format_number(tokens), f"{tokens:,.0f}"))

    losses = run.training["loss"]
    if len(losses):
        last = smooth(_points(losses))[-1][1]
        first = format_number(losses.values[0])
        entries.append(("Training loss", format_number(last), f"smoothed, from {first}"))
    for name, metrics in list(run.valid.items())[:3]:
        if "loss" in metrics:
            bits = metrics["bits_per_byte"].last if "bits_per_byte" in metrics else None
            hint = f"{format_number(bits)} bits/byte" if bits is not None else ""
            value = format_number(metrics["loss"].values[-1])
            entries.append((f"Validation, {_set_name(name)}", value, hint))

    rate = run.training["tokens_per_second"].median or number(summary.get("tokens_per_second"))
    if rate is not None:
        mfu = run.training["mfu"].median
        hint = f"{mfu * 100:.1f}\u00a0% MFU" if mfu else "median"
        entries.append(("Tokens/s", format_number(rate), hint))
    wall = number(summary.get("wall_s")) or run.elapsed_s
    if wall is not None:
        resumes = len(run.resumed)
        times = "once" if resumes == 1 else f"{resumes:,} times"
        entries.append(("Wall time", duration(wall), f"resumed {times}" if resumes else "without a resume"))

    shown = []
    for title, value, hint in entries:
        figure = f"<dd>{escape(value)}<small>{escape(hint)}</small></dd>"
        shown.append(f'<div class="tile"><dt>{escape(title)}</dt>{figure}</div>')
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def loss(run: RunData) -> str:
    """Training loss with the validation points and the resumes; once more for the flatter second half."""
    raw = _points(run.training["loss"])
    lines = [Line("training", raw, "raw"), Line("training, smoothed", smooth(raw), "c1")] if raw else []
    for i, (name, metrics) in enumerate(run.valid.items()):
        if "loss" in metrics:
            colour = _SET_COLOURS[i % len(_SET_COLOURS)]
            label = f"validation, {_set_name(name)}"
            lines.append(Line(label, _points(metrics["loss"]), colour, markers=True))
    whole_run = _chart("Loss", "Nats per token.", lines, run, width=1000, height=340)
    middle = run.last_step // 2
    late = [replace(line, points=[p for p in line.points if p[0] >= middle]) for line in lines]
    if len(raw) < 40 or len(late[0].points) < 20:
        return whole_run
    return whole_run + _chart("Loss, second half", "", late, run, width=1000, height=240, x_from=middle)


def learning_rate(run: RunData) -> str:
    return _single("Learning rate", "", "lr", run, from_zero=True)


def throughput(run: RunData) -> str:
    note = "Tokens per second, over the whole job."
    return _single("Throughput", note, "tokens_per_second", run, smoothed=True, from_zero=True)


def gradient_norm(run: RunData) -> str:
    return _single("Gradient norm", "Before clipping.", "grad_norm", run, smoothed=True)


def validation_table(run: RunData) -> str:
    """First, best and last value of every validation metric."""
    rows = []
    for name, metrics in run.valid.items():
        for metric, curve in metrics.items():
            label = f"{_set_name(name)}, {metric.replace('_', ' ')}"
            best = min(curve.values) if metric in ("loss", "bits_per_byte", "perplexity") else None
            cells = [curve.values[0], best, curve.values[-1]]
            shown = "".join(f"<td>{format_number(v) if v is not None else '–'}</td>" for v in cells)
            rows.append(f"<tr><td>{escape(printable(label))}</td>{shown}<td>{curve.steps[-1]:,}</td></tr>")
    if not rows:
        return ""
    head = "<tr><th>Set</th><th>First</th><th>Best</th><th>Last</th><th>At step</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><h2>Validation</h2><div class="scroll">{table}</div></section>'


def accuracy(run: RunData) -> str:
    """Scores before and after training, against always giving the same answer."""
    scores = run.summary.get("accuracy")
    groups, readings = [], []
    for name, score in scores.items() if isinstance(scores, dict) else ():
        if isinstance(score, dict) and number(score.get("after")) is not None:
            group, reading = _score(_set_name(str(name)), score)
            groups.append(group)
            readings.append(f"<p>{escape(reading)}</p>")
    if not groups:
        return ""
    keys = [("before", "before training"), ("after", "after training"), ("baseline", "constant answer")]
    shown_keys = legend(keys)
    note = "Right answers in percent, with one standard error. Constant answer: always giving the same one."
    chart = bar_chart("Accuracy before and after training", groups)
    figure = f'<div>{shown_keys}<div class="scroll">{chart}</div></div>'
    text = f'<div class="readings">{"".join(readings)}</div>'
    head = f'<h2>Accuracy</h2><p class="note">{note}</p>'
    return f'<section>{head}<div class="pair">{figure}{text}</div></section>'


def _score(name: str, score: dict[str, Any]) -> tuple[BarGroup, str]:
    before, after = number(score.get("before")), number(score.get("after"))
    assert after is not None
    stderr, constant = number(score.get("stderr")), number(score.get("constant_answer"))
    count = whole(score.get("n"))
    bars, asked = [], f" ({count:,} questions)" if count else ""
    if before is not None:
        # The file holds the error of the score after training; before it, the binomial one is exact enough.
        error = math.sqrt(max(0.0, before * (1 - before)) / count) if count and count > 0 else None
        bars.append(Bar(f"{name}, before", before, "before", error))
    bars.append(Bar(f"{name}, after", after, "after", stderr))

    reading = f"{name}{asked}: {after * 100:.1f}"
    reading += f" ± {stderr * 100:.1f}" if stderr is not None else ""
    reading += "\u00a0% after training"
    reading += f", {before * 100:.1f}\u00a0% before" if before is not None else ""
    reading += f", {constant * 100:.1f}\u00a0% by a constant answer" if constant is not None else ""
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


def completions(run: RunData) -> str:
    """What the model wrote."""
    given = run.summary.get("completions")
    texts = [c for c in given if isinstance(c, dict)] if isinstance(given, list) else []
    items = []
    for entry in texts[:_MAX_COMPLETIONS]:
        prompt, text = entry.get("prompt"), entry.get("completion")
        if isinstance(prompt, str) and isinstance(text, str):
            items.append(_completion(prompt, text))
    return _listed_completions("Completions", items)


def samples(run: RunData) -> str:
    """What the model wrote while it was trained: at the first and last such step and some between."""
    steps = sorted({step for step, _, _ in run.samples})
    shown = {steps[place * (len(steps) - 1) // (_SHOWN_STEPS - 1)] for place in range(_SHOWN_STEPS) if steps}
    items = [
        _completion(prompt, text, f'<p class="note">Step {step:,}</p>')
        for step, prompt, text in run.samples
        if step in shown
    ]
    return _listed_completions("Samples while training", items[-_MAX_COMPLETIONS:])


def _completion(prompt: str, text: str, heading: str = "") -> str:
    return f"<li>{heading}{_paragraph(prompt, 'prompt')}{_paragraph(text, 'answer')}</li>"


def _listed_completions(title: str, items: list[str]) -> str:
    if not items:
        return ""
    note = "Each prompt in grey, then the model's continuation, as it came."
    listed = f'<ul class="samples">{"".join(items)}</ul>'
    return f'<section><h2>{title}</h2><p class="note">{note}</p>{listed}</section>'


def configuration(run: RunData) -> str:
    """The resolved configuration, folded."""
    if run.config is None:
        return ""
    text = escape(printable(run.config))
    return f"<section><details><summary>Configuration</summary><pre>{text}</pre></details></section>"


def _paragraph(text: str, css: str) -> str:
    cut = text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + " …"
    hindi = len(_DEVANAGARI.findall(cut)) * 2 > sum(c.isalpha() for c in cut)
    language = ' lang="hi"' if hindi else ""
    return f'<p class="{css}"{language}>{escape(printable(cut))}</p>'


def _set_name(name: str) -> str:
    return _LANGUAGES.get(name, printable(name))


def _points(curve: Series) -> list[Point]:
    return list(zip(map(float, curve.steps), curve.values, strict=True))


def _single(
    title: str, note: str, key: str, run: RunData, smoothed: bool = False, from_zero: bool = False
) -> str:
    points = _points(run.training[key])
    lines = [Line(title.lower(), points, "c1")]
    if smoothed and len(points) >= 50:
        lines = [Line("per logged step", points, "raw"), Line("smoothed", smooth(points), "c1")]
    return _chart(title, note, lines, run, width=560, height=260, from_zero=from_zero)


def _chart(
    title: str,
    note: str,
    lines: Sequence[Line],
    run: RunData,
    width: int,
    height: int,
    from_zero: bool = False,
    x_from: float = 0.0,
) -> str:
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    marks = [Mark(step, f"resumed at step {step:,}", "resume") for step in run.resumed[-_MAX_MARKS:]]
    marks += [Mark(step, f"not finite at step {step:,}", "bad") for step in run.non_finite[-_MAX_MARKS:]]
    keys = [(line.css, line.label) for line in lines] if len(lines) > 1 else []
    shown = {mark.css for mark in marks if mark.x >= x_from}
    keys += [(css, label) for css, label in (("resume", "resumed"), ("bad", "not finite")) if css in shown]
    if needs_log([y for line in lines for _, y in line.points]):
        note = f"{note} Logarithmic scale.".strip()
    chart = line_chart(title, lines, marks, width, height, from_zero=from_zero, x_from=x_from)
    chart = f'<div class="scroll">{chart}</div>'
    shown_note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{shown_note}{legend(keys)}{chart}</section>"


def legend(keys: Sequence[tuple[str, str]]) -> str:
    """What the colours of a chart mean: (colour, label); "" for none."""
    if not keys:
        return ""
    items = "".join(f'<li><span class="key {css}"></span>{escape(label)}</li>' for css, label in keys)
    return f'<ul class="legend">{items}</ul>'
