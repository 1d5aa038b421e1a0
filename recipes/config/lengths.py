"""Lengths in optimizer steps, given in steps or in tokens: of a run and of its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.schema import OptimConfig, PretrainConfig
from recipes.config.timeline import Timeline, timeline_of


@dataclass(frozen=True)
class Clock:
    """Tokens as whole optimizer steps, both counted from a step of the run on."""

    timeline: Timeline
    begin: int = 0

    def steps(self, tokens: int) -> int:
        """The first step by whose end this many tokens have been seen."""
        return self.timeline.steps_with(self.timeline.tokens(self.begin) + tokens) - self.begin

    def last_steps(self, tokens: int, end: int) -> int:
        """How many steps before ``end`` have this many tokens."""
        before = self.timeline.tokens(self.begin + end) - tokens
        return self.begin + end - (self.timeline.steps_with(before + 1) - 1)


@dataclass(frozen=True)
class ScheduleLengths:
    """In optimizer steps."""

    warmup: int
    """Below ``decay``."""
    decay: int
    """The step at which min_lr is reached, at least 1."""
    wsd_decay: int
    """Length of WSD's final decay, at least 1."""


def configured_warmup(optim: OptimConfig, clock: Clock) -> int:
    """Steps of warm-up as configured."""
    if optim.lr_warmup_tokens is not None:
        return clock.steps(optim.lr_warmup_tokens)
    return optim.lr_warmup_steps


def configured_decay(optim: OptimConfig, clock: Clock) -> int | None:
    """The configured step at which min_lr is reached; None: the schedule's last."""
    if optim.lr_decay_tokens is not None:
        return clock.steps(optim.lr_decay_tokens)
    return optim.lr_decay_steps


def configured_wsd_decay(optim: OptimConfig, clock: Clock, decay: int) -> int | None:
    """The configured length of WSD's final decay, before step ``decay``; None: a tenth of the schedule."""
    if optim.lr_wsd_decay_tokens is not None:
        return clock.last_steps(optim.lr_wsd_decay_tokens, decay)
    return optim.lr_wsd_decay_steps


def schedule_lengths(optim: OptimConfig, clock: Clock, total_steps: int) -> ScheduleLengths:
    """The lengths for a schedule of ``total_steps``.

    A run shorter than its warm-up or final decay (a trial) still gets a schedule: these are cut to fit.
    """
    decay = configured_decay(optim, clock) or max(1, total_steps)
    warmup = min(configured_warmup(optim, clock), decay - 1)
    wsd_decay = configured_wsd_decay(optim, clock, decay) or max(1, decay // 10)
    return ScheduleLengths(warmup, decay, min(wsd_decay, decay - warmup))


def total_steps(config: PretrainConfig) -> int:
    """Optimizer steps of the whole run, limited by max_steps and max_tokens."""
    limits = []
    if config.trainer.max_steps is not None:
        limits.append(config.trainer.max_steps)
    if config.trainer.max_tokens is not None:
        limits.append(timeline_of(config).steps_with(config.trainer.max_tokens))
    return min(limits)
