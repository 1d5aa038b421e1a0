"""The learning rate of a step, for plans and plots that must answer at once. No torch here.

Training asks megatron-core's OptimizerParamScheduler, whose import takes seconds. These are its formulas, and
a test holds them equal.
"""

from __future__ import annotations

import math

from recipes.config.schema import OptimConfig
from recipes.optim.lengths import ScheduleLengths


def learning_rate(step: int, optim: OptimConfig, lengths: ScheduleLengths) -> float:
    """The rate that the update after ``step`` earlier updates uses."""
    if lengths.warmup and step <= lengths.warmup:
        return optim.lr * step / lengths.warmup
    if optim.lr_decay_style == "constant":
        return optim.lr
    if step > lengths.decay:
        return optim.min_lr
    if optim.lr_decay_style == "inverse-square-root":
        return max(optim.min_lr, optim.lr * math.sqrt(max(1, lengths.warmup) / max(1, step)))
    return optim.min_lr + (optim.lr - optim.min_lr) * _share(step, optim, lengths)


def _share(step: int, optim: OptimConfig, lengths: ScheduleLengths) -> float:
    """How much of the way from min_lr up to lr is left."""
    if optim.lr_decay_style == "WSD":
        start = lengths.decay - lengths.wsd_decay
        return (
            1.0 if step <= start else _decayed(optim.lr_wsd_decay_style, (step - start) / lengths.wsd_decay)
        )
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
