"""The learning rate of every step, and its curve drawn with characters. No torch here.

Training uses megatron-core's OptimizerParamScheduler, which takes seconds to import. These are its formulas,
and a test checks that they agree.
"""

from __future__ import annotations

import math

from recipes.config.lengths import ScheduleLengths, schedule_lengths
from recipes.config.schema import OptimConfig

WIDTH, HEIGHT = 60, 10


def learning_rate(step: int, optim: OptimConfig, lengths: ScheduleLengths) -> float:
    """The rate of the update that follows ``step`` earlier updates."""
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
    """The rate's position between min_lr (0) and lr (1)."""
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


def draw_learning_rate(optim: OptimConfig, tokens_per_step: int, total_steps: int) -> str:
    """The rate of every step of the run as a plot of 60 x 10 characters, with axes in steps and tokens.

    A column stands for a range of steps and shows the highest rate among them.
    """
    lengths = schedule_lengths(optim, tokens_per_step, total_steps)
    last = max(1, total_steps - 1)
    highest = []
    for column in range(WIDTH):
        first, end = round(column * last / WIDTH), round((column + 1) * last / WIDTH)
        # The rate rises only until the end of the warm-up, so an interval's highest is at one of these steps.
        peak = min(max(lengths.warmup, first), end)
        highest.append(max(learning_rate(step, optim, lengths) for step in (first, peak, end)))
    top = max(highest) or optim.lr
    lines = []
    for row in range(HEIGHT):
        level = (HEIGHT - row - 0.5) / HEIGHT * top
        label = f"{top:.2e}" if row == 0 else ""
        lines.append(f"{label:>9} |" + "".join("*" if rate >= level else " " for rate in highest).rstrip())
    lines.append(f"{'0':>9} +" + "-" * WIDTH)
    end_label = f"{total_steps:,}"
    lines.append(f"{'step':>9}  0" + f"{end_label:>{WIDTH - 1}}")
    lines.append(f"{'tokens':>9}  0" + f"{total_steps * tokens_per_step:>{WIDTH - 1},}")
    return "\n".join(lines)
