"""What faults have cost a run, from its records and its processes' ends. No torch here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure.planned_faults import PASSING, Planned, allowed
from recipes.run_directory import read_metrics_log


@dataclass(frozen=True)
class Line:
    """A record of metrics.jsonl, and when it was there, in seconds since 1970."""

    time: float
    record: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.record["step"])

    @property
    def is_step(self) -> bool:
        return "loss" in self.record


@dataclass
class Start:
    """One start of the processes, and what they did."""

    began: float
    lines: list[Line] = field(default_factory=list)
    ended: float | None = None
    """None: they are alive."""
    code: int | None = None
    """As the job script sees it; None: they are alive, or nobody was left to tell."""

    def steps(self) -> list[Line]:
        return [line for line in self.lines if line.is_step]


@dataclass(frozen=True)
class Cost:
    """What a fault came to."""

    kind: str
    step: int
    lost: int
    """Steps that were trained for nothing."""
    allowed: int
    """So many may be."""
    recovery_s: float | None = None
    """From the fault to the end of the first step that had not been trained before; None: it went on."""
    goes_on_from: int | None = None
    code: int | None = None
    """How the processes ended; None: they went on, as in the next two, or their node was lost."""
    noticed_s: float | None = None
    """Until the last of them had ended."""
    start_s: float | None = None
    """From there to the end of the first step of those that followed."""


def costs(planned: Sequence[Planned], starts: Sequence[Start], run: Path, every: int) -> list[Cost]:
    """Those of the faults that are over, in the order of the plan."""
    found = []
    for fault in planned:
        most = allowed(fault, every)
        passing = fault.kind in PASSING
        cost = _of_passing(fault, starts, most) if passing else _of_ending(fault, starts, run, most)
        if cost is not None:
            found.append(cost)
    return found


def _of_ending(fault: Planned, starts: Sequence[Start], run: Path, most: int) -> Cost | None:
    mark = run / "logs" / fault.mark
    if not mark.exists():
        return None
    began = mark.stat().st_mtime
    place = max(place for place, start in enumerate(starts) if start.began <= began)
    hit, later = starts[place], [line for start in starts[place + 1 :] for line in start.lines]
    steps = hit.steps()
    if hit.ended is None or not steps:
        return None
    if fault.kind == "full_disk":  # Nobody notices before the next save.
        began = steps[-1].time
    first = next((line for line in later if line.is_step), None)
    new = next((line for line in later if line.is_step and line.step > steps[-1].step), None)
    resumed = next((line for line in later if line.record.get("event") == "resumed"), None)
    if first is None or new is None or resumed is None:
        return None
    return Cost(
        fault.kind,
        fault.step,
        lost=steps[-1].step - resumed.step,
        allowed=most,
        recovery_s=new.time - began,
        goes_on_from=resumed.step,
        code=hit.code,
        noticed_s=hit.ended - began,
        start_s=first.time - hit.ended,
    )


def _of_passing(fault: Planned, starts: Sequence[Start], most: int) -> Cost | None:
    def is_it(line: Line) -> bool:
        event = line.record.get("event")
        if fault.kind == "slow":
            return line.is_step and line.step == fault.step
        if fault.kind == "nan":
            return event == "skipped_step" and line.step == fault.step
        return event == "rolled_back" and bool(line.record["spike_step"] == fault.step)

    lines = [line for start in starts for line in start.lines]
    place = next((place for place, line in enumerate(lines) if is_it(line)), None)
    if place is None:
        return None
    trained = [line for line in lines[:place] if line.is_step]
    before = next((line for line in reversed(trained) if line.step < fault.step), None)
    new = next((line for line in lines[place:] if line.is_step and line.step >= fault.step), None)
    if before is None or new is None:
        return None
    if fault.kind == "slow":
        return Cost(fault.kind, fault.step, lost=0, allowed=most)
    seconds = new.time - before.time
    if fault.kind == "nan":
        return Cost(fault.kind, fault.step, lost=1, allowed=most, recovery_s=seconds)
    back = lines[place].step
    lost = max(fault.step, trained[-1].step) - back
    return Cost(fault.kind, fault.step, lost=lost, allowed=most, recovery_s=seconds, goes_on_from=back)


class Follower:
    """Reads metrics.jsonl as it grows."""

    def __init__(self, metrics: Path) -> None:
        self.metrics, self.seen, self.size = metrics, 0, 0

    def new_lines(self) -> list[Line]:
        """Since the last call."""
        try:
            with self.metrics.open("rb") as file:  # Opened, a file of a network file system is up to date.
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return []
        if size == self.size:
            return []
        self.size = size
        now, records = time.time(), read_metrics_log(self.metrics).appended
        self.seen, new = len(records), records[self.seen :]
        return [Line(now, each) for each in new]


HEAD = (
    f"{'fault':<18} {'step':>6} {'exit':>5} {'noticed':>9} {'starts in':>10} {'recovers in':>12} "
    f"{'goes on from':>13} {'steps lost':>11}"
)


def row(cost: Cost) -> str:
    """A line of the table."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} s"

    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    return (
        f"{cost.kind:<18} {cost.step:>6,} {number(cost.code):>5} {seconds(cost.noticed_s):>9} "
        f"{seconds(cost.start_s):>10} {seconds(cost.recovery_s):>12} {number(cost.goes_on_from):>13} "
        f"{cost.lost:>11,}"
    )
