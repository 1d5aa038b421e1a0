"""Charts as data for the templates: everything that is placed has its place in percent of the plot.

So a chart fits any width with its texts at their own size: only curves are stretched (templates/parts.html).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recipes.report.curves import Point, downsample
from recipes.report.figures import format_number, format_percent

#: CSS classes that tell the curves of a chart apart.
COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")
#: On a wide chart; more dots of measured points would be one smear, and the line alone is clearer.
_MOST_DOTS = 60


@dataclass(frozen=True)
class Curve:
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
class Key:
    """What a colour or a dash means."""

    css: str
    label: str


@dataclass(frozen=True)
class Placed:
    """Something at `x` and `y`, percent from the left and from the top."""

    x: float
    y: float
    label: str
    css: str = ""


@dataclass(frozen=True)
class Path:
    """A curve on a field of 1000 x 1000 units, as the `d` of an SVG path."""

    d: str
    css: str


@dataclass(frozen=True)
class LineChart:
    """Curves over training steps."""

    title: str
    note: str
    wide: bool
    """The whole width of the page, or half of it."""
    keys: list[Key]
    x_ticks: list[Placed]
    y_ticks: list[Placed]
    """From the bottom up."""
    marks: list[Placed]
    paths: list[Path]
    dots: list[Placed]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies between low (0) and high (1)."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def line_chart(
    title: str,
    curves: Sequence[Curve],
    marks: Sequence[Mark] = (),
    *,
    note: str = "",
    wide: bool = True,
    from_zero: bool = False,
    x_from: float = 0.0,
    place: str = "at step {:,.0f}",
) -> LineChart | None:
    """Curves from step `x_from` on; the y axis is logarithmic when a few values dwarf the rest.

    Args:
        curves: those without points are left out.
        from_zero: the y axis begins at 0.
        place: how an x is told.

    Returns:
        None if no curve has a point.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    values = [y for curve in curves for _, y in curve.points]
    log = _needs_log(values)
    low, high = min(values), max(values)
    y_values = log_ticks(low, high) if log else ticks(min(0.0, low) if from_zero else low, high)
    y_scale = _Scale(y_values[0], y_values[-1], log)
    x_scale = _Scale(x_from, max(x_from + 1.0, *(curve.points[-1][0] for curve in curves)))
    x_values = [x for x in ticks(x_scale.low, x_scale.high, 10 if wide else 5, whole=True)
                if x_scale.low <= x <= x_scale.high]  # fmt: skip
    marks = [mark for mark in marks if x_scale.low <= mark.x <= x_scale.high]

    paths, dots, most_dots = [], [], _MOST_DOTS if wide else _MOST_DOTS // 2
    for curve in curves:
        points = downsample(curve.points)
        places = [(x_scale.share(x), 1 - y_scale.share(y)) for x, y in points]
        if len(points) > 1:
            d = "L".join(f"{_short(1000 * x)} {_short(1000 * y)}" for x, y in places)
            paths.append(Path(f"M{d}", f"{curve.css} thin" if curve.markers else curve.css))
        if (curve.markers and len(points) <= most_dots) or len(points) == 1:
            for (step, value), (x, y) in zip(points, places, strict=True):
                label = f"{curve.label}: {format_number(value)} {place.format(step)}"
                dots.append(Placed(_percent(x), _percent(y), label, curve.css))
    keys = [Key(curve.css, curve.label) for curve in curves] if len(curves) > 1 else []
    kinds = {mark.css for mark in marks}
    keys += [Key(css, label) for css, label in (("resume", "resumed"), ("bad", "not finite")) if css in kinds]
    return LineChart(
        title=title,
        note=f"{note} Logarithmic scale.".strip() if log else note,
        wide=wide,
        keys=keys,
        x_ticks=[
            Placed(_percent(x_scale.share(x)), 100, label)
            for x, label in zip(x_values, _tick_labels(x_values), strict=True)
        ],
        y_ticks=[
            Placed(0, _percent(1 - y_scale.share(y)), label)
            for y, label in zip(y_values, _tick_labels(y_values), strict=True)
        ],
        marks=[Placed(_percent(x_scale.share(mark.x)), 0, mark.label, mark.css) for mark in marks],
        paths=paths,
        dots=dots,
    )


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round values from at most `low` to at least `high`, about `count` of them."""
    # Differences in the last digits are rounding.
    if high - low <= 1e-9 * max(abs(low), abs(high)):
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


def _tick_labels(values: Sequence[float]) -> list[str]:
    """As few digits as tell the values apart."""
    for digits in range(4, 12):
        labels = [format_number(value, digits) for value in values]
        if len(set(labels)) == len(labels):
            break
    return labels


def _needs_log(values: Sequence[float]) -> bool:
    """Whether a few values dwarf the rest, as gradient norms do."""
    ordered = sorted(values)
    return ordered[0] > 0 and ordered[-1] > 20 * ordered[len(ordered) // 2]


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _percent(share: float) -> float:
    return round(100 * share, 2)


@dataclass(frozen=True)
class Bar:
    """A bar with an optional error (one standard error to each side)."""

    label: str
    value: float
    css: str
    error: float | None = None


@dataclass(frozen=True)
class BarGroup:
    """Bars below each other, and a dashed line across them at `baseline`."""

    label: str
    bars: Sequence[Bar]
    baseline: float | None = None


@dataclass(frozen=True)
class PlacedBar:
    """A bar's length and the ends of its error in percent of the chart's width; its value as text."""

    label: str
    css: str
    length: float
    shown: str
    error: tuple[float, float] | None


@dataclass(frozen=True)
class PlacedGroup:
    """The bars of a group; its baseline in percent of the chart's width."""

    label: str
    bars: list[PlacedBar]
    baseline: float | None


@dataclass(frozen=True)
class BarChart:
    """Groups of horizontal bars: labels of any length have room, on a phone too."""

    title: str
    note: str
    keys: list[Key]
    groups: list[PlacedGroup]


def bar_chart(
    title: str, groups: Sequence[BarGroup], *, note: str = "", keys: Sequence[Key] = (), percent: bool = True
) -> BarChart | None:
    """Shares (0 to 1) as percentages, or with `percent=False` any numbers from 0 on; None without groups."""
    if not groups:
        return None
    ends = [bar.value + (bar.error or 0.0) for group in groups for bar in group.bars]
    ends += [group.baseline for group in groups if group.baseline is not None]
    scale = _Scale(0.0, max(ends) if max(ends) > 0 else 1.0)
    show: Callable[[float], str] = format_percent if percent else "{:.2f}".format
    placed = [
        PlacedGroup(
            group.label,
            [_place_bar(bar, scale, show(bar.value) + ("\u00a0%" if percent else "")) for bar in group.bars],
            None if group.baseline is None else _percent(scale.share(group.baseline)),
        )
        for group in groups
    ]
    return BarChart(title, note, list(keys), placed)


def _place_bar(bar: Bar, scale: _Scale, shown: str) -> PlacedBar:
    error = None
    if bar.error:
        error = _percent(scale.share(bar.value - bar.error)), _percent(scale.share(bar.value + bar.error))
    return PlacedBar(bar.label, bar.css, _percent(scale.share(bar.value)), shown, error)
