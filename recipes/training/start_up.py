"""Where the time from the command to the end of the first step goes. No torch here: loading it is a part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import psutil

from recipes.console import duration


class StartUp:
    """Seconds of each part, in the order in which the parts begin; what is between them is the rest."""

    _of_this_process: ClassVar[float | None] = psutil.Process().create_time()
    """When this process began; None once a run has counted from then: a later one has its own start."""

    def __init__(self) -> None:
        now = time.time()
        self._began = StartUp._of_this_process or now
        StartUp._of_this_process = None
        self.seconds: dict[str, float] = {"command": now - self._began}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is done inside for the part; parts do not contain each other."""
        began = time.time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.time() - began

    def record(self) -> dict[str, Any]:
        """For metrics.jsonl: seconds from the process's start to now, in all and by part."""
        total = time.time() - self._began
        parts = self.seconds | {"rest": total - sum(self.seconds.values())}
        return {
            "start_up_s": round(total, 3),
            "start_up": {name: round(seconds, 3) for name, seconds in parts.items()},
        }

    @staticmethod
    def line(record: dict[str, Any]) -> str:
        """The same for people; parts of less than a twentieth of a second are left out."""
        parts = [f"{name} {seconds:.1f}" for name, seconds in record["start_up"].items() if seconds >= 0.05]
        return f"first  step after {duration(record['start_up_s'])}: {', '.join(parts)} s"
