"""A chart of the pages as a picture of its own: one SVG file, for pages that have no style sheet of ours."""

from __future__ import annotations

from recipes.report.charts import LineChart
from recipes.report.rendering import render

WIDTH, HEIGHT = 720, 300
"""Of the plot, in pixels."""
LEFT, RIGHT, TOP, BOTTOM, LINE = 70, 20, 30, 50, 20
"""Margins around it, and the height of a line of the legend."""


def chart_svg(chart: LineChart) -> str:
    """The SVG, with its own colours on white."""
    return render(
        "recipes.report/chart.svg",
        chart=chart,
        plot_width=WIDTH,
        plot_height=HEIGHT,
        left=LEFT,
        top=TOP + LINE * len(chart.keys),
        line=LINE,
        width=LEFT + WIDTH + RIGHT,
        height=TOP + LINE * len(chart.keys) + HEIGHT + BOTTOM,
    )
