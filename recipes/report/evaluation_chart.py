"""An evaluation as a picture: the model's figures as bars, published ones as marks on them. One SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recipes.config.schema import TableRow
from recipes.report.evaluation_result import EvaluationResult, Score, TaskResult
from recipes.report.evaluation_table import TableSpec, figure_of, is_share, rows_of

ROW, BAR, LEFT, PLOT, RIGHT, LINE = 26, 14, 260, 480, 60, 20
"""In pixels: a row's and a bar's height, the widths of labels, plot and values, a line of the legend."""
OURS, BASELINE, ERROR = "#30638e", "#555", "#000"
PUBLISHED = ("#d1495b", "#66a182", "#edae49", "#8d6a9f", "#00798c", "#7a6c5d", "#b5179e", "#588157")
IN_A_LINE = 3


def evaluation_chart(result: EvaluationResult, spec: TableSpec) -> str | None:
    """The SVG of all rows that are shares of 100, with one standard error to each side; None if none is."""
    rows = []
    for row in rows_of([result], spec):
        task = result.tasks.get(row.task)
        figure = figure_of(task, row.metric)
        if task is not None and figure is not None and is_share(row.metric):
            rows.append((row, task, figure))
    if not rows:
        return None
    columns = spec.columns if any(row.published for row, *_ in rows) else []
    keys = [(OURS, result.model), *zip(PUBLISHED, columns, strict=False), (BASELINE, "constant answer")]
    top = LINE * -(-len(keys) // IN_A_LINE) + 10
    width, height = LEFT + PLOT + RIGHT, top + ROW * len(rows) + LINE
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>', *_legend(keys), *_grid(top, height)]
    for number, (row, task, figure) in enumerate(rows):
        parts += _row(row, task, figure, top + ROW * number + ROW // 2)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    return "\n".join([f'{head} viewBox="0 0 {width} {height}" {style}>', *parts, "</svg>"]) + "\n"


def _row(row: TableRow, task: TaskResult, figure: Score, middle: int) -> list[str]:
    parts = [
        _text(LEFT - 8, middle + 4, f"{row.name} ({row.metric.removesuffix(',none')})", end=True),
        _bar(0.0, figure.value, middle, BAR, OURS),
        _text(LEFT + PLOT + 8, middle + 4, f"{figure.value:.1f}"),
    ]
    if figure.stderr:
        parts.append(_bar(figure.value - figure.stderr, figure.value + figure.stderr, middle, 3, ERROR))
    if task.constant_answer is not None:
        parts.append(_mark(100 * task.constant_answer, middle, ROW, BASELINE))
    marks = zip(row.published, PUBLISHED, strict=False)
    return parts + [_mark(value, middle, BAR + 4, colour) for value, colour in marks]


def _legend(keys: Sequence[tuple[str, str]]) -> list[str]:
    parts, step = [], (LEFT + PLOT) // IN_A_LINE
    for number, (colour, label) in enumerate(keys):
        x, y = 10 + step * (number % IN_A_LINE), LINE * (number // IN_A_LINE) + 8
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 16, y + 10, label))
    return parts


def _grid(top: int, height: int) -> list[str]:
    parts = []
    for percent in range(0, 101, 20):
        x = _x(percent)
        line = f'x1="{x}" x2="{x}" y1="{top}" y2="{height - LINE}"'
        parts += [f'<line {line} stroke="#ddd"/>', _text(x, height - 5, str(percent), middle=True)]
    return parts


def _x(percent: float) -> float:
    return round(LEFT + PLOT * min(max(percent, 0.0), 100.0) / 100, 1)


def _bar(start: float, end: float, middle: int, height: int, colour: str) -> str:
    x, width = _x(start), round(_x(end) - _x(start), 1)
    return f'<rect x="{x}" y="{middle - height / 2}" width="{width}" height="{height}" fill="{colour}"/>'


def _mark(percent: float, middle: int, height: int, colour: str) -> str:
    place = f'x="{_x(percent) - 1.5}" y="{middle - height / 2}"'
    return f'<rect {place} width="3" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, end: bool = False, middle: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ' text-anchor="middle"' if middle else ""
    return f'<text x="{x}" y="{y}"{anchor}>{escape(text)}</text>'
