"""A run's learning rate, batches and blend over its tokens, as curves on a page. No torch here."""

from __future__ import annotations

from pathlib import Path

from recipes.config.lengths import total_steps
from recipes.config.phases import plan_phases
from recipes.config.schedule import schedule_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.report.charts import COLOURS, Curve, LineChart, Mark, line_chart
from recipes.report.curves import Point
from recipes.report.rendering import write_page

RATE_POINTS = 1_000
PLACE = "at {:,.0f} tokens"


def write_dry_run_page(config: PretrainConfig, text: str, path: Path) -> Path:
    """Writes the page, with the ``dry_run=true`` text below its charts; returns its path.

    Raises:
        UserError: it cannot be written.
    """
    return write_page(
        path,
        "recipes.plan/dry_run.html",
        title=f"{config.name}: planned run",
        heading=config.name,
        subtitle="Planned run",
        charts=[chart for chart in (rates(config), batches(config), blend(config)) if chart is not None],
        text=text,
    )


def rates(config: PretrainConfig) -> LineChart | None:
    """The learning rate of the updates: those at which a schedule turns, and others at equal distances."""
    schedule, timeline, steps = schedule_of(config), timeline_of(config), total_steps(config)
    last = max(0, steps - 1)
    shown = {round(place * last / RATE_POINTS) for place in range(RATE_POINTS + 1)}
    for segment in schedule.segments:
        turns = (-1, 0, segment.lengths.warmup, segment.lengths.decay)
        shown |= {segment.first_step + turn for turn in turns}
    at = [step for step in sorted(shown) if 0 <= step <= last]
    points = [(float(timeline.tokens(step)), schedule.rate(step)) for step in at]
    points.append((float(timeline.tokens(steps)), points[-1][1]))  # The last update reads up to the end.
    return _chart(config, "Learning rate", [Curve("learning rate", points, COLOURS[0])])


def batches(config: PretrainConfig) -> LineChart | None:
    """Tokens per step; None where they do not change."""
    timeline, steps = timeline_of(config), total_steps(config)
    segments = timeline.before(steps)
    sizes = [float(segment.tokens_per_step) for segment in segments]
    if len(set(sizes)) == 1:
        return None
    borders = [segment.first_token for segment in segments] + [timeline.tokens(steps)]
    return _chart(config, "Tokens per step", [Curve("tokens per step", _stairs(borders, sizes), COLOURS[0])])


def blend(config: PretrainConfig) -> LineChart | None:
    """The share of every source in percent; None of a run without phases, whose shares stay."""
    if not config.phases or not config.data.train:
        return None
    timeline, steps = timeline_of(config), total_steps(config)
    phases = [
        (timeline.first_of(number), phase)
        for number, phase in enumerate(plan_phases(config))
        if timeline.first_of(number).first_step < max(1, steps)
    ]
    borders = [first.first_token for first, _ in phases] + [timeline.tokens(steps)]
    curves = []
    for place, name in enumerate(config.data.train):
        shares = [100 * phase.weights.get(name, 0.0) / sum(phase.weights.values()) for _, phase in phases]
        css = COLOURS[place % len(COLOURS)] + (" dashed" if place // len(COLOURS) % 2 else "")
        if any(shares):
            curves.append(Curve(name, _stairs(borders, shares), css))
    return _chart(config, "Blend", curves, note="Percent of the samples.")


def _stairs(borders: list[int], values: list[float]) -> list[Point]:
    """The n-th value holds from the n-th border to the next."""
    return [
        (float(at), value)
        for place, value in enumerate(values)
        for at in (borders[place], borders[place + 1])
    ]


def _chart(config: PretrainConfig, title: str, curves: list[Curve], note: str = "") -> LineChart | None:
    """Over tokens, with a line where a phase begins."""
    timeline, steps = timeline_of(config), total_steps(config)
    marks = []
    for number in range(1, len(config.phases)):
        first = timeline.first_of(number)
        if first.first_step < steps:
            label = f"phase {config.phases[number].name or number} from step {first.first_step + 1:,}"
            marks.append(Mark(first.first_token, label, "phase"))
    note = f"{note} Over tokens{', with a line where a phase begins' if marks else ''}.".strip()
    return line_chart(title, curves, marks, note=note, from_zero=True, place=PLACE)
