"""Faults of all kinds in one run: what each of them costs, and how much of the time was useful."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure.lives import Launched, Life, differences, newest, quick_start_settings, undisturbed
from benchmarks.measure.planned_faults import (
    ENDING,
    GUARDS,
    PASSING,
    Planned,
    allowed,
    faults_text,
    left_out,
    schedule,
)
from benchmarks.records import record
from recipes.cli import DONE, STOPPED_BY_GUARD, STOPPED_BY_SIGNAL, USER_ERROR
from recipes.config.hydra_app import compose
from recipes.config.timeline import timeline_of
from recipes.errors import UserError
from recipes.run_directory import read_metrics_log
from recipes.training.faults import VARIABLE

MAX_FAILURES = 3
"""As of docker/slurm/pretrain.sbatch: starts in a row without a new checkpoint after which it gives up."""


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
    ended: float = 0.0
    code: int | None = None
    """As the job script sees it; None: they are alive."""

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
    """How the processes ended; None, as in the next two: they went on."""
    noticed_s: float | None = None
    """Until the last of them had ended."""
    start_s: float | None = None
    """From there to the end of the first step of those that followed."""


def costs(planned: Sequence[Planned], starts: Sequence[Start], run: Path, every: int) -> list[Cost]:
    """Those of the faults that are over, in the order of the plan."""
    found = []
    for fault in planned:
        most = allowed(fault, every)
        cost = (
            _of_ending(fault, starts, run, most) if fault.kind in ENDING else _of_passing(fault, starts, most)
        )
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
    if hit.code is None or not steps:
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
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        if size == self.size:
            return []
        self.size = size
        now, records = time.time(), read_metrics_log(self.metrics).appended
        self.seen, new = len(records), records[self.seen :]
        return [Line(now, each) for each in new]


def as_job(codes: Sequence[int]) -> int:
    """The exit code that counts, as docker/slurm/pretrain.sbatch finds it."""
    for decisive in (USER_ERROR, STOPPED_BY_GUARD):
        if decisive in codes:
            return decisive
    failed = [code for code in codes if code not in (DONE, STOPPED_BY_SIGNAL)]
    if failed:
        # A killed rank's, not those of the ranks that missed it.
        return min(failed)
    return STOPPED_BY_SIGNAL if STOPPED_BY_SIGNAL in codes else DONE


def faulty_run(
    launch: Callable[[], Life], run: Path, planned: Sequence[Planned], every: int
) -> tuple[list[Start], list[Cost]]:
    """Trains to the end, started again as often as it takes; prints what each fault costs once it is over.

    Raises:
        UserError: too many starts in a row made no checkpoint, or one ended by a mistake that nobody planned.
    """
    print(HEAD)
    follower, starts, told = Follower(run / "metrics.jsonl"), list[Start](), list[Cost]()
    failures = 0
    while not starts or starts[-1].code != DONE:
        saved = newest(run / "checkpoints")
        life = launch()
        starts.append(Start(time.time()))
        try:
            while life.poll() is None:
                starts[-1].lines += follower.new_lines()
                time.sleep(0.01)
            code = as_job(life.wait())
        finally:
            life.kill()
        starts[-1].lines += follower.new_lines()
        starts[-1].ended, starts[-1].code = time.time(), code
        over = costs(planned, starts, run, every)
        for cost in over[len(told) :]:
            print(row(cost), flush=True)
        told = over
        failures = 0 if newest(run / "checkpoints") > saved else failures + 1
        full = any(fault.kind == "full_disk" for fault in planned)
        if failures >= MAX_FAILURES or (code in (USER_ERROR, STOPPED_BY_GUARD) and not full):
            raise UserError(f"the run ended with {code}: {life.output()[-2000:]}")
    return starts, told


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


def step_seconds(starts: Sequence[Start]) -> float:
    """The median step's: from one record to the next."""
    times = [
        later.record["elapsed_s"] - earlier.record["elapsed_s"]
        for start in starts
        for earlier, later in pairwise(start.steps())
        if later.step == earlier.step + 1 and later.record["elapsed_s"] > earlier.record["elapsed_s"]
    ]
    return statistics.median(times)


def shortcomings(planned: Sequence[Planned], found: Sequence[Cost], aim_s: float) -> list[str]:
    """What is worse than it should be."""
    missed = {(fault.kind, fault.step) for fault in planned} - {(cost.kind, cost.step) for cost in found}
    told = [
        f"{kind} at step {step:,}: never happened, or not gone on after it" for kind, step in sorted(missed)
    ]
    for cost in found:
        what = f"{cost.kind} at step {cost.step:,}"
        if cost.recovery_s is not None and cost.recovery_s > aim_s:
            told.append(f"{what}: recovery took {cost.recovery_s:.1f} s, more than {aim_s:g}")
        if cost.lost > cost.allowed:
            told.append(f"{what}: {cost.lost:,} steps lost, at most {cost.allowed:,} should be")
    return told


def summarize(starts: Sequence[Start], found: Sequence[Cost], steps: int, json_file: Path | None) -> None:
    """Prints goodput, and records everything."""
    for cost in found:
        record(json_file, who="fault", **asdict(cost))
    for kind in (*ENDING, *PASSING):
        of_kind = [cost for cost in found if cost.kind == kind]
        times = [cost.recovery_s for cost in of_kind if cost.recovery_s is not None]
        if of_kind:
            record(
                json_file,
                who=kind,
                times=len(of_kind),
                recovery_s=statistics.mean(times) if times else None,
                longest_recovery_s=max(times, default=None),
                lost=statistics.mean(cost.lost for cost in of_kind),
                most_lost=max(cost.lost for cost in of_kind),
            )
    wall = starts[-1].ended - starts[0].began
    step_s = step_seconds(starts)
    skipped = sum(cost.kind == "nan" for cost in found)
    goodput = (steps - skipped) * step_s / wall
    lost = sum(cost.lost for cost in found)
    first = starts[0].steps()[0].time - starts[0].began
    each = (wall - first - steps * step_s) / len(found)
    print(
        f"goodput {100 * goodput:.1f} %: {steps - skipped:,} useful steps of {1000 * step_s:.0f} ms in "
        f"{wall:.0f} s, {len(starts):,} starts; {lost:,} steps lost\n"
        f"a fault costs {each:.1f} s on average, saves included: with one an hour "
        f"{100 / (1 + each / 3600):.1f} % goodput"
    )
    record(
        json_file,
        who="goodput",
        goodput=goodput,
        wall_s=wall,
        step_s=step_s,
        steps=steps,
        starts=len(starts),
        lost=lost,
        seconds_per_fault=each,
    )


def run(options: argparse.Namespace) -> None:
    """Trains undisturbed, trains with faults, compares."""
    planned, steps = schedule(options.faults, options.steps, options.every, options.seed, options.processes)
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.data or Path(temporary)).resolve()
        settings = [*quick_start_settings(directory, steps, options.every, options.processes), *GUARDS]
        settings += options.overrides
        timeline = timeline_of(compose("pretrain", settings))
        skip = str(left_out(planned, timeline)).replace(" ", "")
        whole, faulty = (directory / f"{name}_{os.getpid()}" for name in ("whole", "faulty"))

        def launch(path: Path, more: list[str], kinds: Sequence[str]) -> Callable[[], Life]:
            variables = {VARIABLE: faults_text(planned, timeline, kinds)}
            named = [*settings, f"name={path.name}", *more]
            log = directory / f"{path.name}.log"
            return lambda: Launched(named, options.processes, log, variables)

        reference = undisturbed(launch(whole, [f"data.skip={skip}"], ("nan",)), whole)
        print(
            f"undisturbed: {steps:,} steps, {1000 * reference.step_s:.0f} ms each, saves included; its first "
            f"after {reference.start_s:.1f} s",
            flush=True,
        )
        starts, found = faulty_run(launch(faulty, [], ENDING + PASSING), faulty, planned, options.every)
        summarize(starts, found, steps, options.json)
        told = shortcomings(planned, found, options.aim)
        if differ := differences(whole, faulty):
            told.append(f"{len(differ):,} differences: {'; '.join(differ[:5])}")
        else:
            print(f"losses equal bit for bit: {steps:,} steps, and every time one was repeated")
    for each in told:
        print(each, file=sys.stderr)
    if told:
        sys.exit(1)
