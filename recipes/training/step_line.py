"""What one sees of a step: a line in a log, the terminal's last line where somebody watches."""

from __future__ import annotations

from typing import Any

import torch

from recipes.console import LiveLine, duration, in_terminal, say
from recipes.report.figures import format_number


class StepLines:
    """Shows the logged steps of a run: one line each, or one that is rewritten.

    Args:
        total_steps: of the whole run.
        first_step: that this process starts from.
        devices: of all processes.
    """

    def __init__(self, total_steps: int, first_step: int, devices: int) -> None:
        self.total_steps, self.devices = total_steps, devices
        self._live = LiveLine(total_steps, first_step) if in_terminal() else None
        self._parts: list[tuple[int, str]] = []
        self._last = ""

    def step_ended(self, step: int) -> None:
        """To be called after every step, logged or not; after :meth:`logged` if it is."""
        if self._live is not None:
            parts = [(0, self._count(step)), *self._parts]
            self._live.show(step, _fitting(parts, self._live.width))

    def logged(self, record: dict[str, Any], seconds_left: float | None) -> None:
        """Shows a record of metrics.jsonl."""
        self._parts = self._figures(record, seconds_left)
        self._last = "  ".join([self._count(record["step"]), *(text for _, text in self._parts)])
        if self._live is None:
            say(self._last)

    def close(self) -> None:
        """Leaves the last figures on a terminal, as an ordinary line."""
        if self._live is not None:
            self._live.close()
            self._live = None
            if self._last:
                say(self._last)

    def _count(self, step: int) -> str:
        return f"step {step:>7,}/{self.total_steps:,}"

    def _figures(self, record: dict[str, Any], seconds_left: float | None) -> list[tuple[int, str]]:
        """The parts in reading order, and how soon a narrow terminal does without: the highest first."""
        per = "/GPU" if torch.cuda.is_available() else "/process" if self.devices > 1 else ""
        parts = [
            (6, f"{format_number(record['consumed_tokens'])} tokens"),
            (1, f"loss {record['loss']:7.4f}"),
            (4, f"lr {record['lr']:.2e}"),
            (5, f"grad norm {record['grad_norm']:6.3f}"),
            (3, f"{record['tokens_per_second_per_device']:,.0f} tokens/s{per}"),
        ]
        if record["mfu"] is not None:
            parts.append((7, f"MFU {100 * record['mfu']:.1f} %"))
        parts.append((8, f"{record['memory_bytes'] / 2**30:.1f} GiB"))
        if seconds_left is not None:
            parts.append((2, f"{duration(seconds_left)} left"))
        return parts


def _fitting(parts: list[tuple[int, str]], width: int) -> str:
    while len(text := "  ".join(part for _, part in parts)) > width and len(parts) > 1:
        parts.remove(max(parts))
    return text[: max(width, 0)]


def peak_memory() -> int:
    """Bytes of this process's device that tensors have taken at most so far; on a CPU, of memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
