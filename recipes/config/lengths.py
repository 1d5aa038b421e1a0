"""Lengths in optimizer steps, given in steps or in tokens: of a run and of its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.schema import OptimConfig, PretrainConfig


@dataclass(frozen=True)
class ScheduleLengths:
    """In optimizer steps."""

    warmup: int
    """Below ``decay``."""
    decay: int
    """The step at which min_lr is reached, at least 1."""
    wsd_decay: int
    """Length of WSD's final decay, at least 1."""


def in_steps(tokens: int, tokens_per_step: int) -> int:
    """The first step by whose end this many tokens have been seen."""
    return -(-tokens // tokens_per_step)


def configured_warmup(optim: OptimConfig, tokens_per_step: int) -> int:
    """Steps of warm-up as configured."""
    if optim.lr_warmup_tokens is not None:
        return in_steps(optim.lr_warmup_tokens, tokens_per_step)
    return optim.lr_warmup_steps


def configured_decay(optim: OptimConfig, tokens_per_step: int) -> int | None:
    """The configured step at which min_lr is reached; None: the run's last."""
    if optim.lr_decay_tokens is not None:
        return in_steps(optim.lr_decay_tokens, tokens_per_step)
    return optim.lr_decay_steps


def configured_wsd_decay(optim: OptimConfig, tokens_per_step: int) -> int | None:
    """The configured length of WSD's final decay; None: a tenth of the whole schedule."""
    if optim.lr_wsd_decay_tokens is not None:
        return in_steps(optim.lr_wsd_decay_tokens, tokens_per_step)
    return optim.lr_wsd_decay_steps


def schedule_lengths(optim: OptimConfig, tokens_per_step: int, total_steps: int) -> ScheduleLengths:
    """The lengths for a run of ``total_steps``.

    A run shorter than its warm-up or final decay (a trial) still gets a schedule: these are cut to fit.
    """
    decay = configured_decay(optim, tokens_per_step) or max(1, total_steps)
    warmup = min(configured_warmup(optim, tokens_per_step), decay - 1)
    wsd_decay = configured_wsd_decay(optim, tokens_per_step) or max(1, decay // 10)
    return ScheduleLengths(warmup, decay, min(wsd_decay, decay - warmup))


def total_steps(config: PretrainConfig) -> int:
    """Optimizer steps of the whole run, limited by max_steps and max_tokens."""
    tokens_per_step = config.trainer.global_batch_size * config.data.seq_length
    limits = []
    if config.trainer.max_steps is not None:
        limits.append(config.trainer.max_steps)
    if config.trainer.max_tokens is not None:
        limits.append(-(-config.trainer.max_tokens // tokens_per_step))
    return min(limits)
