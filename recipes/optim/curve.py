"""A learning-rate curve drawn with characters. No torch here."""

from __future__ import annotations

from recipes.config.schema import OptimConfig
from recipes.optim.lengths import schedule_lengths
from recipes.optim.schedule import learning_rate

WIDTH, HEIGHT = 60, 10


def draw_learning_rate(optim: OptimConfig, tokens_per_step: int, total_steps: int) -> str:
    """The rate of every step of the run as a plot of 60 x 10 characters, with axes in steps and tokens.

    A column stands for as many steps as the width asks for and shows the highest rate among them.
    """
    lengths = schedule_lengths(optim, tokens_per_step, total_steps)
    last = max(1, total_steps - 1)
    highest = []
    for column in range(WIDTH):
        first, end = round(column * last / WIDTH), round((column + 1) * last / WIDTH)
        # It rises to the end of the warm-up and never after: the highest of an interval is at one of these.
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
