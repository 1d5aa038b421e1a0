"""Faults of all kinds in one run: what each of them costs, and how much of the time was useful."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.measure.fault_costs import HEAD, Cost, Follower, Start, costs, row
from benchmarks.measure.lives import Launched, Life, differences, newest, quick_start_settings, undisturbed
from benchmarks.measure.planned_faults import (
    ENDING,
    GUARDS,
    OF_CLUSTER,
    PASSING,
    Planned,
    faults_text,
    left_out,
    schedule,
)
from benchmarks.measure.slurm_run import Job, Strikes, faulty_job, launch_settings
from benchmarks.records import record
from recipes.cli import DONE, STOPPED_BY_GUARD, STOPPED_BY_SIGNAL, USER_ERROR
from recipes.config.described_run import settings_of_run
from recipes.config.hydra_app import compose
from recipes.config.timeline import timeline_of
from recipes.errors import UserError
from recipes.training.faults import VARIABLE

MAX_FAILURES = 3
"""As of docker/slurm/pretrain.sbatch: starts in a row without a new checkpoint after which it gives up."""


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
    for kind in (*ENDING, *OF_CLUSTER, *PASSING):
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
    assert starts[-1].ended is not None
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
    planned, steps = schedule(
        options.faults or len(options.kinds),
        *(options.steps, options.every, options.seed, options.processes, options.kinds),
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.data or Path(temporary)).resolve()
        settings = [*quick_start_settings(directory, steps, options.every, options.processes), *GUARDS]
        settings += (of_run := settings_of_run(options.overrides))
        timeline = timeline_of(compose("pretrain", settings))
        skip = str(left_out(planned, timeline)).replace(" ", "")
        whole, faulty = (directory / f"{name}_{os.getpid()}" for name in ("whole", "faulty"))
        of_cluster = [each for each in options.overrides if each not in of_run]

        def here(path: Path, more: list[str], kinds: Sequence[str]) -> Life:
            log, variables = directory / f"{path.name}.log", {VARIABLE: faults_text(planned, timeline, kinds)}
            return Launched([*settings, f"name={path.name}", *more], options.processes, log, variables)

        def on_slurm(path: Path, more: list[str], kinds: Sequence[str]) -> Job:
            meant = [fault for fault in planned if fault.kind in kinds]
            faults = faults_text(planned, timeline, kinds)
            added = launch_settings(options.cluster, meant, path, faults, VARIABLE)
            return Job([*settings, f"name={path.name}", *more, *of_cluster, *added], path)

        launch = here if options.cluster is None else on_slurm
        reference = undisturbed(lambda: launch(whole, [f"data.skip={skip}"], ("nan",)), whole)
        print(
            f"undisturbed: {steps:,} steps, {1000 * reference.step_s:.0f} ms each, saves included; its first "
            f"after {reference.start_s:.1f} s",
            flush=True,
        )
        if options.cluster is None:
            again = partial(here, faulty, [], options.kinds)
            starts, found = faulty_run(again, faulty, planned, options.every)
        else:
            launched = partial(on_slurm, faulty, [], options.kinds)
            strikes = Strikes(options.cluster.gpus_per_node, options.preempt_from, options.lose_node)
            starts, found = faulty_job(launched, faulty, planned, options.every, strikes)
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
