"""Inline SVG charts. Colours come from the page's style sheet by class, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from recipes.report.curves import Point, downsample


@dataclass(frozen=True)
class Line:
    """A curve, or with `markers` a few measured points joined by a thin line."""

    label: str
    points: Sequence[Point]
    css: str
    markers: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at step `x`."""

    x: float
    label: str
    css: str


@dataclass(frozen=True)
class Bar:
    """A bar with an optional error (one standard error to each side)."""

    label: str
    value: float
    css: str
    error: float | None = None


@dataclass(frozen=True)
class BarGroup:
    """Bars side by side, and the score of always giving the same answer as a dashed line across them."""

    label: str
    bars: Sequence[Bar]
    baseline: float | None = None


def format_number(value: float) -> str:
    """Short and readable: 31.6k, 2.9B, 3e-4, 2.412."""
    size = abs(value)
    if size == 0:
        return "0"
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 9,999 stays whole; from 10,000 on three digits and a unit.
        if size >= unit and size >= 1e4:
            return f"{value / unit:.3g}{name}" if size / unit < 999.5 else f"{value / unit:,.0f}{name}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round values from at most `low` to at least `high`, about `count` of them."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # round(): 3 * 0.1 should be labelled 0.3.
    return [round(i * step, 12) if abs(step) > 1e-9 else i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 values (or powers of ten when there are many) enclosing low..high, both positive."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 3:
        stride = math.ceil((last - first) / 6)
        return [10.0**e for e in range(first, last + stride, stride)]
    grid = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    start = max((i for i, v in enumerate(grid) if v <= low), default=0)
    end = min((i for i, v in enumerate(grid) if v >= high), default=len(grid) - 1)
    return grid[start : max(end, start + 1) + 1]


def _coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, css: str = "tick", anchor: str = "middle") -> str:
    place = f'x="{_coordinate(x)}" y="{_coordinate(y)}"'
    return f'<text {place} class="{css}" text-anchor="{anchor}">{escape(text)}</text>'


def _marker(x: float, y: float, css: str, title: str) -> str:
    hint = f"<title>{escape(title)}</title>"
    return f'<circle cx="{_coordinate(x)}" cy="{_coordinate(y)}" r="3.6" class="dot {css}">{hint}</circle>'


class _Frame:
    """The plotting area: turns data into pixels and draws axes and grid."""

    def __init__(self, width: int, height: int, y_ticks: list[float], log: bool = False) -> None:
        self.width, self.height, self.log, self.y_ticks = width, height, log, y_ticks
        self.left, self.right, self.top, self.bottom = 52, width - 14, 14, height - 40
        self.x_low, self.x_high = 0.0, 1.0
        self.y_low, self.y_high = y_ticks[0], y_ticks[-1]

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_low, self.y_high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.bottom - share * (self.bottom - self.top)

    def grid(self, percent: bool = False) -> list[str]:
        parts = []
        for i, tick in enumerate(self.y_ticks):
            y = _coordinate(self.y(tick))
            css = "axis" if i == 0 else "grid"
            parts.append(f'<line x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}" class="{css}"/>')
            label = f"{tick * 100:.3g} %" if percent else format_number(tick)
            parts.append(_text(self.left - 8, self.y(tick) + 4, label, anchor="end"))
        return parts

    def svg(self, title: str, parts: list[str]) -> str:
        css = "wide" if self.width > 700 else "narrow"
        box = f"0 0 {self.width} {self.height}"
        head = f'viewBox="{box}" class="{css}" role="img" aria-label="{escape(title)}"'
        return f"<svg {head}>{''.join(parts)}</svg>"


def line_chart(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[Mark] = (),
    width: int = 1000,
    height: int = 320,
    x_label: str = "step",
    from_zero: bool = False,
    x_from: float = 0.0,
) -> str:
    """Curves over training steps from `x_from` on; the y axis is logarithmic when there are great spikes.

    `title` is read out by screen readers; lines without points are left out; at least one needs a point.
    """
    lines = [line for line in lines if line.points]
    values = [y for line in lines for _, y in line.points]
    log = needs_log(values)
    low, high = min(values), max(values)
    y_ticks = log_ticks(low, high) if log else ticks(0.0 if from_zero else low, high)
    frame = _Frame(width, height, y_ticks, log)
    steps = [x for line in lines for x, _ in line.points]
    frame.x_low, frame.x_high = x_from, max(x_from + 1.0, *steps)

    parts = frame.grid()
    for tick in ticks(frame.x_low, frame.x_high, count=width // 95, whole=True):
        if frame.x_low <= tick <= frame.x_high:
            parts.append(_text(frame.x(tick), frame.bottom + 18, format_number(tick)))
    parts.append(_text((frame.left + frame.right) / 2, height - 4, x_label, "axis-label"))
    for mark in marks:
        if frame.x_low <= mark.x <= frame.x_high:
            x = _coordinate(frame.x(mark.x))
            place = f'x1="{x}" x2="{x}" y1="{frame.top}" y2="{frame.bottom}"'
            hint = f"<title>{escape(mark.label)}</title>"
            parts.append(f'<line {place} class="mark {mark.css}">{hint}</line>')
    for line in lines:
        parts += _draw_line(frame, line)
    return frame.svg(title, parts)


def needs_log(values: Sequence[float]) -> bool:
    """Whether a few values dwarf the rest, as gradient norms do."""
    ordered = sorted(values)
    return ordered[0] > 0 and ordered[-1] > 20 * ordered[len(ordered) // 2]


def _draw_line(frame: _Frame, line: Line) -> list[str]:
    points = downsample(line.points)
    parts = []
    if len(points) > 1:
        path = "L".join(f"{_coordinate(frame.x(x))} {_coordinate(frame.y(y))}" for x, y in points)
        parts.append(f'<path d="M{path}" class="line {line.css}{" thin" if line.markers else ""}"/>')
    # With very many validations the dots would be one smear; the line alone is clearer.
    if (line.markers and len(points) <= 60) or len(points) == 1:
        for x, y in points:
            title = f"{line.label}: {format_number(y)} at step {x:,.0f}"
            parts.append(_marker(frame.x(x), frame.y(y), line.css, title))
    return parts


def bar_chart(
    title: str, groups: Sequence[BarGroup], width: int = 620, height: int = 300, percent: bool = True
) -> str:
    """Shares (0 to 1) as percentages in groups, or with `percent=False` any numbers from 0 on."""
    tops = [bar.value + (bar.error or 0.0) for group in groups for bar in group.bars]
    tops += [group.baseline for group in groups if group.baseline is not None]
    highest = max([*tops, 0.0]) * 1.12 or 1.0
    if percent:
        highest = min(1.0, highest)
    frame = _Frame(width, height, ticks(0.0, highest))
    slot = (frame.right - frame.left) / len(groups)
    parts = frame.grid(percent=percent)
    for i, group in enumerate(groups):
        middle = frame.left + (i + 0.5) * slot
        bar_width = min(70.0, slot * 0.7 / max(1, len(group.bars)))
        start = middle - bar_width * len(group.bars) / 2
        labels = []
        for j, bar in enumerate(group.bars):
            gap = min(4.0, bar_width / 8)
            shapes, label = _draw_bar(frame, bar, start + j * bar_width + gap, bar_width - 2 * gap, percent)
            parts += shapes
            labels.append(label)
        if group.baseline is not None:
            y = _coordinate(frame.y(group.baseline))
            x1, x2 = _coordinate(start - 14), _coordinate(start + bar_width * len(group.bars) + 14)
            hint = f"<title>constant answer: {group.baseline * 100:.1f} %</title>"
            parts.append(f'<line x1="{x1}" x2="{x2}" y1="{y}" y2="{y}" class="baseline">{hint}</line>')
        # Over the line, or it would cross them out.
        parts += [*labels, _text(middle, frame.bottom + 20, group.label, "group-label")]
    return frame.svg(title, parts)


def _draw_bar(frame: _Frame, bar: Bar, x: float, width: float, percent: bool) -> tuple[list[str], str]:
    """The bar with its error, and its value as text."""
    y = frame.y(bar.value)
    size = f'width="{_coordinate(width)}" height="{_coordinate(max(0.5, frame.bottom - y))}"'
    number = (
        (f"{bar.value * 100:.1f}" if bar.value >= 0.01 else f"{bar.value * 100:.2g}")
        if percent
        else f"{bar.value:.2f}"
    )
    hint = f"<title>{escape(bar.label)}: {number}{' %' if percent else ''}</title>"
    parts = [
        f'<rect x="{_coordinate(x)}" y="{_coordinate(y)}" {size} rx="2" class="bar {bar.css}">{hint}</rect>'
    ]
    middle, label_y = x + width / 2, y
    if bar.error:
        low, high = frame.y(bar.value - bar.error), frame.y(bar.value + bar.error)
        label_y = high
        m, left, right = _coordinate(middle), _coordinate(middle - 5), _coordinate(middle + 5)
        low_y, high_y = _coordinate(low), _coordinate(high)
        path = f"M{m} {low_y}V{high_y}M{left} {low_y}H{right}M{left} {high_y}H{right}"
        parts.append(f'<path d="{path}" class="error"/>')
    # In a narrow bar the number would run into its neighbours'; pointing at it still tells.
    return parts, _text(middle, label_y - 6, number, "value") if width >= 24 else ""
