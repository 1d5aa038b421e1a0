"""A run's learning rate, batches and blend over its tokens, drawn with characters. No torch here."""

from __future__ import annotations

from itertools import pairwise

from recipes.config.lengths import total_steps
from recipes.config.phases import plan_phases
from recipes.config.schedule import schedule_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of

WIDTH, HEIGHT = 60, 10
BATCH_HEIGHT = 5
SIGNS = "#=-.+:~o*%"
"""Of the sources in a blend, in their order, and again from the first on."""

Columns = list[tuple[int, int]]
"""First and last of the steps that a column stands for, counted from 0."""


def draw_plots(config: PretrainConfig) -> str:
    """The learning rate; of a run in phases also tokens per step and the shares of sources.

    All have 60 columns, each of as many tokens, and mark where a phase begins. A column shows the highest
    value in it; of a blend, that of its middle.
    """
    columns = _columns(config)
    plots = [_learning_rate(config, columns)]
    if config.phases:
        plots.append(_batches(config, columns))
        plots += [_blend(config, columns)] if config.data.train else []
    return "\n\n".join(plots)


def _columns(config: PretrainConfig) -> Columns:
    timeline, last = timeline_of(config), max(1, total_steps(config) - 1)
    tokens = timeline.tokens(last)
    borders = [timeline.steps_with(round(column * tokens / WIDTH)) for column in range(WIDTH + 1)]
    return list(pairwise(borders))


def _axis(config: PretrainConfig, columns: Columns) -> str:
    """The line below a plot, with a mark in every column in which a phase begins."""
    timeline, steps = timeline_of(config), total_steps(config)
    begins = {timeline.first_of(number).first_step for number in range(1, len(config.phases))}
    line = ["-"] * WIDTH
    for begin in begins:
        for column, (first, end) in enumerate(columns):
            if begin < steps and first <= begin < end:
                line[column] = "|"
    return f"{'0':>9} +" + "".join(line)


def _ends(config: PretrainConfig) -> list[str]:
    """The lines below the last axis: where the run begins and ends."""
    steps = total_steps(config)
    return [
        f"{'step':>9}  0{steps:>{WIDTH - 1},}",
        f"{'tokens':>9}  0{timeline_of(config).tokens(steps):>{WIDTH - 1},}",
    ]


def _bars(values: list[float], top: float, label: str, height: int) -> list[str]:
    lines = []
    for row in range(height):
        level = (height - row - 0.5) / height * top
        head = label if row == 0 else ""
        lines.append(f"{head:>9} |" + "".join("*" if value >= level else " " for value in values).rstrip())
    return lines


def _learning_rate(config: PretrainConfig, columns: Columns) -> str:
    schedule = schedule_of(config)
    # A rate is highest at the end of a warm-up, or where a schedule begins, or at an end of the column.
    peaks = [each.first_step + at for each in schedule.segments for at in (0, each.lengths.warmup)]
    highest = []
    for first, end in columns:
        within = [peak for peak in peaks if first <= peak <= end]
        highest.append(max(schedule.rate(step) for step in (first, end, *within)))
    top = max(highest) or config.optim.lr
    bars = _bars(highest, top, f"{top:.2e}", HEIGHT)
    return "\n".join(["learning rate", *bars, _axis(config, columns), *_ends(config)])


def _batches(config: PretrainConfig, columns: Columns) -> str:
    timeline = timeline_of(config)
    # Batches may be larger in between, but a column is narrow.
    ends = [(first, max(first, end - 1)) for first, end in columns]
    sizes: list[float] = [max(timeline.at(step).tokens_per_step for step in pair) for pair in ends]
    bars = _bars(sizes, max(sizes), f"{max(sizes):,.0f}", BATCH_HEIGHT)
    return "\n".join(["tokens per step", *bars, _axis(config, columns), *_ends(config)])


def _blend(config: PretrainConfig, columns: Columns) -> str:
    timeline, phases = timeline_of(config), plan_phases(config)
    names = [name for name in config.data.train if any(name in phase.weights for phase in phases)]
    signs = {name: SIGNS[place % len(SIGNS)] for place, name in enumerate(names)}
    shares = []
    for first, end in columns:
        weights = phases[timeline.at((first + end) // 2).phase].weights
        shares.append([weights.get(name, 0.0) / sum(weights.values()) for name in names])
    lines = []
    for row in range(HEIGHT):
        level = (row + 0.5) / HEIGHT
        drawn = "".join(signs[names[_at(level, column)]] for column in shares)
        lines.append(f"{'100 %' if row == 0 else '':>9} |{drawn}")
    legend = "   ".join(f"{sign} {name}" for name, sign in signs.items())
    return "\n".join([f"blend   {legend}", *lines, _axis(config, columns), *_ends(config)])


def _at(level: float, shares: list[float]) -> int:
    """Which of the shares, one upon another from the top, is there."""
    for place, share in enumerate(shares):
        level -= share
        if level < 0:
            return place
    return max(place for place, share in enumerate(shares) if share > 0)
