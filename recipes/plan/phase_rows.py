"""The phases' part of the ``dry_run`` text."""

from __future__ import annotations

from recipes.config.lengths import total_steps
from recipes.config.phases import Phase, plan_phases
from recipes.config.schedule import RateSegment, begins_schedule, schedule_of
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import Timeline, timeline_of


def phase_rows(config: PretrainConfig) -> list[tuple[str, str]]:
    """Names and values: when each phase begins and ends, its batches, its learning rate, its blend."""
    if not config.phases:
        return []
    timeline, schedule, steps = timeline_of(config), schedule_of(config), total_steps(config)
    rows = []
    for number, (phase, blend) in enumerate(zip(config.phases, plan_phases(config), strict=True)):
        name = f"phase {number}" + (f" {phase.name}" if phase.name else "")
        first = timeline.first_of(number).first_step
        if first >= steps:
            rows.append((name, "not reached"))
            continue
        is_last = number == len(config.phases) - 1
        end = steps if is_last else min(steps, timeline.first_of(number + 1).first_step)
        tokens = f"tokens {timeline.tokens(first):,} to {timeline.tokens(end):,}"
        rows.append((name, f"steps {first + 1:,} to {end:,}, {tokens}"))
        rows.append(("  batches", _batches(timeline, number, steps)))
        if begins_schedule(phase):
            rows.append(("  learning rate", _rate(schedule.at(first))))
        rows.append(("  blend", _blend(blend)))
    return rows


def _batches(timeline: Timeline, number: int, steps: int) -> str:
    parts = [each for each in timeline.before(steps) if each.phase == number]
    first, last = parts[0], parts[-1]
    growing = f"{first.global_batch_size:,} growing to " if len(parts) > 1 else ""
    return f"{growing}{last.global_batch_size:,} x {last.seq_length:,} = {last.tokens_per_step:,} tokens"


def _rate(segment: RateSegment) -> str:
    optim, lengths = segment.optim, segment.lengths
    warmup = f"{lengths.warmup:,} warm-up steps from {segment.initial:g}, " if lengths.warmup else ""
    if optim.lr_decay_style == "constant":
        return f"{warmup}constant, {optim.lr:g}"
    return f"{warmup}{optim.lr_decay_style}, {optim.lr:g} to {optim.min_lr:g} over {lengths.decay:,} steps"


def _blend(phase: Phase) -> str:
    total = sum(phase.weights.values())
    return ", ".join(f"{name} {100 * weight / total:.2f} %" for name, weight in phase.weights.items())
