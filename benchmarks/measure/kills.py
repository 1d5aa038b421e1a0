"""A run that is killed again and again, beside one that is not."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure.lives import (
    Launched,
    Life,
    Recorded,
    RunEnded,
    Whole,
    compare_figures,
    differences,
    newest,
    quick_start_settings,
    undisturbed,
)
from benchmarks.records import record
from recipes.checkpoint.save.manifest import MANIFEST, partial_checkpoints
from recipes.cli import DONE
from recipes.counts import counted
from recipes.errors import UserError

START_UP, STEP, SAVE, PUBLICATION, DELETION = "start-up", "step", "save", "publication", "deletion"
START_UP_SHARE = 0.15
"""Of the kills. A start takes much longer than a few steps: at random nearly all would be there."""


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    step: int | None
    """Once this step is recorded; None: while the run starts."""
    fraction: float
    """How much later: of the time from one save to the next, or of a start."""


@dataclass(frozen=True)
class Kill:
    """What a kill hit."""

    seconds: float
    """After the start of the process."""
    running: str
    step: int
    """The last that this process had recorded; of a start-up the checkpoint's."""
    checkpoint: int
    """The step that the run goes on from; 0: from the beginning."""
    equal: int
    """Records of steps and validations up to this kill that were compared, all of them equal."""

    @property
    def lost(self) -> int:
        """Steps that are trained again."""
        return self.step - self.checkpoint


def schedule(kills: int, steps: int, seed: int, spare: int) -> list[Moment]:
    """Moments in the order of the run; the last is at least ``spare`` steps before its end.

    Raises:
        UserError: the run is too short for so many.
    """
    generator = random.Random(seed)
    starts = [generator.random() < START_UP_SHARE for _ in range(kills)]
    wanted, possible = starts.count(False), range(1, steps - spare)
    if wanted > len(possible):
        raise UserError(f"--steps {steps:,}: too few for {kills:,} kills, take {5 * kills + spare:,}")
    at = iter(sorted(generator.sample(possible, wanted)))
    return [Moment(None if start else next(at), generator.random()) for start in starts]


def what_was_running(checkpoints: Path, trained: bool) -> str:
    """Told from what the killed processes have left; ``trained``: whether they had recorded a step."""
    if not trained:  # Whatever lies there is of the life before.
        return START_UP
    if partial := next(iter(partial_checkpoints(checkpoints)), None):
        return PUBLICATION if (partial / MANIFEST).is_file() else SAVE
    if any(not (path / MANIFEST).is_file() for path in checkpoints.glob("step_*")):
        return DELETION
    return STEP


def kill_once(launch: Callable[[], Life], directory: Path, moment: Moment, whole: Whole, every: int) -> Kill:
    """Starts the run, kills it, and compares what it has recorded."""
    checkpoints = directory / "checkpoints"
    before = newest(checkpoints)
    started = time.monotonic()
    life, recorded = launch(), Recorded(directory / "metrics.jsonl")
    try:
        if moment.step is None:
            # This start may be faster than the undisturbed run's was: its first step ends it too.
            while time.monotonic() - started < moment.fraction * whole.start_s and recorded.last() is None:
                time.sleep(0.005)
        else:
            recorded.wait(moment.step, life)
            time.sleep(moment.fraction * every * whole.step_s)
        if (code := life.poll()) is not None:
            ended = RunEnded if code == DONE else UserError
            raise ended(f"the run ended by itself before it was killed: {life.output()[-2000:]}")
    finally:
        life.kill()
    seconds, last = time.monotonic() - started, recorded.last()
    running = what_was_running(checkpoints, last is not None)
    figures = compare_figures(whole.directory, directory)
    end_if(figures.different)
    step = before if last is None else last
    return Kill(seconds, running, step, newest(checkpoints), figures.records)


class Journal:
    """What was done so far, for the same command after an interruption.

    Args:
        path: a JSON line for the undisturbed run, and one for each kill.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        self.whole: Whole | None = None
        for first in entries[:1]:
            self.whole = Whole(**first | {"directory": Path(first["directory"])})
        self.kills = [Kill(**entry) for entry in entries[1:]]

    def begin(self, whole: Whole) -> None:
        """The undisturbed run is over."""
        self.whole = whole
        self._append(asdict(whole) | {"directory": str(whole.directory)})

    def add(self, kill: Kill) -> None:
        """The next one."""
        self.kills.append(kill)
        self._append(asdict(kill))

    def _append(self, entry: dict[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def killed_run(
    launch: Callable[[], Life], directory: Path, moments: list[Moment], every: int, journal: Journal
) -> None:
    """Kills the run at each of the moments that the journal has not yet, and lets the last life end.

    Prints the table as it grows. What the run has recorded until then is compared at each kill; the first
    difference ends the program with exit code 1. On a busy machine kills come late, and the run may come to
    its end before all of them.

    Raises:
        UserError: the run failed by itself.
    """
    print(
        f"{'kill':>4} {'after':>8}  {'running':<12} {'step':>6} {'goes on from':>13} {'steps lost':>11} "
        f"{'records equal':>14}"
    )
    whole = journal.whole
    assert whole is not None
    for number, moment in enumerate(moments, 1):
        if number > len(journal.kills):
            try:
                journal.add(kill_once(launch, directory, moment, whole, every))
            except RunEnded:
                print(f"the run came to its end after {counted(len(journal.kills), 'kill')}", flush=True)
                return
        kill = journal.kills[number - 1]
        print(
            f"{number:>4} {kill.seconds:>6.1f} s  {kill.running:<12} {kill.step:>6,} {kill.checkpoint:>13,} "
            f"{kill.lost:>11,} {kill.equal:>14,}",
            flush=True,
        )
    undisturbed(launch, directory)


def end_if(different: list[str]) -> None:
    """Ends the program with exit code 1 if there are differences, and says which."""
    if different:
        print(f"{len(different):,} differences: {'; '.join(different[:5])}", file=sys.stderr)
        sys.exit(1)


def run(options: argparse.Namespace) -> None:
    """Trains undisturbed, trains with kills, compares."""
    spare = 5 * options.every
    steps = options.steps or 5 * options.kills + spare
    moments = schedule(options.kills, steps, options.seed, spare)
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.data or Path(temporary)).resolve()
        settings = [
            *quick_start_settings(directory, steps, options.every, options.processes),
            "trainer.checkpoint.async_save=true",
            *options.overrides,
        ]
        described = [settings, options.kills, options.processes, options.seed]
        key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:8]
        whole_name, killed_name = (f"{name}_{key}" for name in ("whole", "killed"))
        journal = Journal(directory / f"kills_{key}.jsonl")

        def launch(name: str) -> Callable[[], Life]:
            log = directory / f"{name}.log"
            return lambda: Launched([*settings, f"name={name}"], options.processes, log)

        whole = journal.whole
        if whole is None:
            shutil.rmtree(directory / whole_name, ignore_errors=True)  # What was interrupted is disturbed.
            whole = undisturbed(launch(whole_name), directory / whole_name)
            journal.begin(whole)
        print(f"undisturbed: {steps:,} steps, {1000 * whole.step_s:.0f} ms each, saves included", flush=True)
        killed_run(launch(killed_name), directory / killed_name, moments, options.every, journal)
        summarize(journal.kills, options.json)
        end_if(differences(directory / whole_name, directory / killed_name))
        print(f"losses equal bit for bit: {steps:,} steps, and every time one was repeated")


def summarize(kills: list[Kill], json_file: Path | None) -> None:
    """Prints how often each thing was hit, and the steps lost."""
    for running, times in Counter(kill.running for kill in kills).most_common():
        lost = [kill.lost for kill in kills if kill.running == running]
        print(
            f"{running:<12} {times:>4} kills, {sum(lost) / times:5.1f} steps lost each, at most {max(lost):,}"
        )
        record(json_file, who=running, kills=times, lost=sum(lost) / times, most=max(lost))
