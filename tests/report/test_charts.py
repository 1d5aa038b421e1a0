"""Where the parts of charts are placed, and what they say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.report.charts import (
    Bar,
    BarGroup,
    Curve,
    LineChart,
    Mark,
    bar_chart,
    line_chart,
    log_ticks,
    ticks,
)
from recipes.report.figures import format_duration, format_number
from recipes.report.run_data import number


def test_numbers_and_ticks() -> None:
    shown = [format_number(v) for v in (0, 3e-4, 2.4123, 1234, 31_600, 999_999, 2.9e9, 5e12, 1e18)]
    assert shown == ["0", "3e-4", "2.412", "1,234", "31.6k", "1,000k", "2.9B", "5T", "1e18"]
    for low, high in ((0.0, 1.0), (2.31, 2.34), (-3.0, 7.0), (5.0, 5.0), (0.0, 1e9), (0.0, 3e-4)):
        values = ticks(low, high)
        assert values[0] <= low and values[-1] >= high and 3 <= len(values) <= 9
    for low, high in ((0.4, 12.0), (1.0, 1.0), (1e-8, 1e8), (3.0, 400.0)):
        values = log_ticks(low, high)
        assert values[0] <= low and values[-1] >= high and len(values) >= 2
    assert [format_duration(s) for s in (0.0321, 3.21, 41, 200, 18_720, 792_000)] == [
        "32.1 ms",
        "3.2 s",
        "41 s",
        "3 min 20 s",
        "5 h 12 min",
        "9 d 4 h",
    ]


def test_a_curve_fills_its_axes() -> None:
    curve = Curve("loss", [(0.0, 10.0), (50.0, 5.0), (100.0, 0.0)], "c1", markers=True)
    chart = line_chart("Loss", [curve], [Mark(25, "resumed at step 25", "resume"), Mark(101, "late", "bad")])
    assert chart is not None
    assert [(path.d, path.css) for path in chart.paths] == [("M0 0L500 500L1000 1000", "c1 thin")]
    assert [(dot.x, dot.y) for dot in chart.dots] == [(0, 0), (50, 50), (100, 100)]
    assert chart.dots[1].label == "loss: 5 at step 50"
    assert [(tick.label, tick.y) for tick in chart.y_ticks] == [
        ("0", 100), ("2", 80), ("4", 60), ("6", 40), ("8", 20), ("10", 0),
    ]  # fmt: skip
    assert [(tick.label, tick.x) for tick in chart.x_ticks][::5] == [("0", 0), ("50", 50), ("100", 100)]
    # A mark beyond the axis is left out, and so is its key; a single curve needs none.
    assert [(mark.x, mark.css) for mark in chart.marks] == [(25, "resume")]
    assert [key.label for key in chart.keys] == ["resumed"]
    assert line_chart("Loss", [Curve("loss", [], "c1")]) is None


def test_a_logarithmic_axis_says_so() -> None:
    points = [(float(step), 1000.0 if step == 7 else 1.0) for step in range(20)]
    chart = line_chart("Norm", [Curve("norm", points, "c1")], note="Before clipping.")
    assert chart is not None and chart.note == "Before clipping. Logarithmic scale."
    places = {tick.label: tick.y for tick in chart.y_ticks}
    assert places["1,000"] == 0 and places["1"] == 100 and places["10"] == pytest.approx(66.67)


# As they are read from metrics.jsonl.
finite = st.floats(allow_nan=False, allow_infinity=False).map(number).filter(lambda value: value is not None)


@given(st.lists(st.tuples(st.integers(0, 2**62), finite), min_size=1, unique_by=lambda point: point[0]))
def test_everything_lies_in_the_plot(points: list[tuple[int, float]]) -> None:
    ordered = [(float(x), y) for x, y in sorted(points)]
    chart = line_chart("Any", [Curve("any", ordered, "c1", markers=True)], from_zero=len(points) % 2 == 0)
    assert chart is not None
    placed = [*chart.dots, *chart.x_ticks, *chart.y_ticks]
    assert all(0 <= place.x <= 100 and 0 <= place.y <= 100 for place in placed)
    assert chart.y_ticks[0].y == 100 and chart.y_ticks[-1].y == 0 and len(chart.y_ticks) < 40
    for path in chart.paths:
        numbers = path.d.replace("M", " ").replace("L", " ").split()
        assert all(0 <= float(text) <= 1000 for text in numbers)


def test_a_curve_that_is_constant_but_for_rounding() -> None:
    points = [(1.0, 3e-4), (2.0, math.nextafter(3e-4, 1))]
    chart = line_chart("Learning rate", [Curve("lr", points, "c1")])
    assert chart is not None and [round(y) for y in ys(chart)] == [50, 50]


@pytest.mark.parametrize("low, high", [(2.50011, 2.50042), (151_004.0, 151_021.0), (7.00013e-5, 7.00021e-5)])
def test_ticks_are_told_apart(low: float, high: float) -> None:
    chart = line_chart("Loss", [Curve("loss", [(1.0, low), (2.0, high)], "c1")])
    assert chart is not None
    labels = [tick.label for tick in chart.y_ticks]
    assert len(set(labels)) == len(labels) >= 3 and max(map(len, labels)) <= 10


def ys(chart: LineChart) -> list[float]:
    """The heights of a chart's only curve, in percent from the top."""
    (path,) = chart.paths
    return [float(point.split()[1]) / 10 for point in path.d.removeprefix("M").split("L")]


def test_bars() -> None:
    groups = [
        BarGroup("hi", [Bar("before", 0.2, "before", 0.05), Bar("after", 0.7, "after", 0.1)], baseline=0.4),
        BarGroup("en", [Bar("after", 0.004, "after")]),
    ]
    chart = bar_chart("Accuracy", groups)
    assert chart is not None
    (before, after), (small,) = (group.bars for group in chart.groups)
    # The longest bar and its error reach the end.
    assert (before.length, before.shown, before.error) == (25, "20.0\u00a0%", (18.75, 31.25))
    assert (after.length, after.shown, after.error) == (87.5, "70.0\u00a0%", (75, 100))
    assert (small.length, small.shown, small.error) == (0.5, "0.4\u00a0%", None)
    assert [group.baseline for group in chart.groups] == [50, None]
    numbers = bar_chart("Tokens", [BarGroup("hi", [Bar("a", 0.0, "c1"), Bar("b", 2.5, "c2")])], percent=False)
    assert numbers is not None
    assert [(bar.length, bar.shown) for bar in numbers.groups[0].bars] == [(0, "0.00"), (100, "2.50")]
    nothing = bar_chart("Tokens", [BarGroup("hi", [Bar("a", 0.0, "c1")])])
    assert nothing is not None and nothing.groups[0].bars[0].length == 0
    assert bar_chart("Tokens", []) is None
