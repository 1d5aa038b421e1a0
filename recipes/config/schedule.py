"""The learning rate of every step, over all phases. No torch here: training and dry_run use the same numbers.

The styles are megatron-core's (OptimizerParamScheduler); a test checks that the rates agree.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from dataclasses import dataclass

from recipes.config.lengths import Clock, ScheduleLengths, schedule_lengths, total_steps
from recipes.config.phase_schema import PhaseConfig
from recipes.config.schema import OptimConfig, PretrainConfig
from recipes.config.timeline import timeline_of

DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(PhaseConfig)}
RATE_KEYS = tuple(key for key in DEFAULTS if key == "min_lr" or key.startswith("lr"))
"""Any of these in a phase begins a schedule of its own."""


@dataclass(frozen=True)
class RateSegment:
    """Steps with one schedule: linear warm-up, then the decay style, then min_lr."""

    first_step: int
    initial: float
    """The rate that the warm-up begins from."""
    optim: OptimConfig
    """Its settings, with the phase's in their places."""
    lengths: ScheduleLengths

    def rate(self, step: int) -> float:
        """The rate of the update that follows ``step`` earlier updates of the run."""
        step -= self.first_step
        optim, lengths = self.optim, self.lengths
        if lengths.warmup and step <= lengths.warmup:
            return self.initial + (optim.lr - self.initial) * step / lengths.warmup
        if optim.lr_decay_style == "constant":
            return optim.lr
        if step > lengths.decay:
            return optim.min_lr
        if optim.lr_decay_style == "inverse-square-root":
            return max(optim.min_lr, optim.lr * math.sqrt(max(1, lengths.warmup) / max(1, step)))
        return optim.min_lr + (optim.lr - optim.min_lr) * self._share(step)

    def _share(self, step: int) -> float:
        """The rate's position between min_lr (0) and lr (1)."""
        optim, lengths = self.optim, self.lengths
        if optim.lr_decay_style == "WSD":
            start = lengths.decay - lengths.wsd_decay
            if step <= start:
                return 1.0
            return _decayed(optim.lr_wsd_decay_style, (step - start) / lengths.wsd_decay)
        return _decayed(optim.lr_decay_style, (step - lengths.warmup) / (lengths.decay - lengths.warmup))


def _decayed(style: str, progress: float) -> float:
    match style:
        case "linear":
            return 1 - progress
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        case "exponential":
            return 2 * 0.5**progress - 1
        case "minus_sqrt":
            return 1 - math.sqrt(progress)
    raise ValueError(f"no decay style {style}")


class Schedule:
    """optim.lr of every step. Groups with rates of their own keep their ratio to it."""

    def __init__(self, segments: list[RateSegment]) -> None:
        self.segments = segments

    def at(self, step: int) -> RateSegment:
        """What the update that follows ``step`` earlier updates belongs to."""
        return self.segments[bisect_right(self.segments, step, key=lambda each: each.first_step) - 1]

    def rate(self, step: int) -> float:
        """The rate of that update."""
        return self.at(step).rate(step)


def schedule_of(config: PretrainConfig) -> Schedule:
    """The configured run's."""
    timeline, total = timeline_of(config), total_steps(config)
    begun: list[tuple[int, PhaseConfig | None]] = [(0, None)]
    begun += [
        (timeline.first_of(number).first_step, phase)
        for number, phase in enumerate(config.phases)
        if begins_schedule(phase)
    ]
    segments: list[RateSegment] = []
    for place, (first, phase) in enumerate(begun):
        # A schedule that another one follows ends where that begins, however long the run is.
        end = begun[place + 1][0] if place + 1 < len(begun) else total
        reached = segments[-1].rate(first) if segments else 0.0
        optim = config.optim if phase is None else phase_optim(config.optim, phase, reached)
        lengths = schedule_lengths(optim, Clock(timeline, first), end - first)
        segments.append(RateSegment(first, reached, optim, lengths))
    return Schedule(segments)


def begins_schedule(phase: PhaseConfig) -> bool:
    """Whether the run's schedule, or that of an earlier phase, ends where the phase begins."""
    return any(getattr(phase, key) != DEFAULTS[key] for key in RATE_KEYS)


def phase_optim(optim: OptimConfig, phase: PhaseConfig, reached: float) -> OptimConfig:
    """The run's optimizer settings with a phase's schedule."""
    own = {key: getattr(phase, key) for key in RATE_KEYS}
    style = own["lr_decay_style"] or optim.lr_decay_style
    inherited = {
        "lr": reached,
        "min_lr": optim.min_lr,
        "lr_decay_style": style,
        # Of a style that is not WSD it must be the default.
        "lr_wsd_decay_style": optim.lr_wsd_decay_style if style == "WSD" else "linear",
    }
    return dataclasses.replace(
        optim, **own | {key: value for key, value in inherited.items() if own[key] is None}
    )
