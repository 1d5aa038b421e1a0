"""A run that is killed again and again, beside one that is not."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.records import record
from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, read_manifest
from recipes.errors import UserError
from recipes.run_directory import read_metrics, read_metrics_log

ROOT = Path(__file__).resolve().parents[2]
START_UP, STEP, SAVE, PUBLICATION, DELETION = "start-up", "step", "save", "publication", "deletion"
START_UP_SHARE = 0.15
"""Of the kills. A start takes much longer than a few steps: at random nearly all would be there."""
FIGURES = ("loss", "lr", "grad_norm", "consumed_samples", "consumed_tokens")
LIMIT_S = 600.0
"""Without a sign of life."""


class Life(Protocol):
    """A run's processes, from one start to their end."""

    def poll(self) -> int | None:
        """The exit code of the first that has ended; None while all are alive."""

    def kill(self) -> None:
        """SIGKILL to all of them; returns when they are gone."""

    def output(self) -> str:
        """What they have printed."""


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
    if partial := next(checkpoints.glob(".step_*.partial"), None):
        return PUBLICATION if (partial / MANIFEST).is_file() else SAVE
    if any(not (path / MANIFEST).is_file() for path in checkpoints.glob("step_*")):
        return DELETION
    return STEP


class Recorded:
    """The steps that a life adds to metrics.jsonl."""

    def __init__(self, metrics: Path) -> None:
        self.metrics = metrics
        self.begin = metrics.stat().st_size if metrics.exists() else 0

    def last(self) -> int | None:
        """The newest; None: none yet."""
        if not self.metrics.exists():
            return None
        with self.metrics.open("rb") as file:
            file.seek(self.begin)
            lines = file.read().split(b"\n")[:-1]  # What follows the last line end may be half a line.
        steps = [json.loads(line)["step"] for line in lines if b'"loss"' in line]
        return max(steps, default=None)

    def wait(self, step: int, life: Life) -> None:
        """Until it is recorded."""
        begun, seen = time.monotonic(), None
        while (last := self.last()) is None or last < step:
            if life.poll() is not None:
                raise UserError(f"the run ended by itself, before step {step:,}: {life.output()[-2000:]}")
            if last != seen:
                begun, seen = time.monotonic(), last
            if time.monotonic() - begun > LIMIT_S:
                raise UserError(f"no step was recorded for {LIMIT_S:.0f} s: {life.output()[-2000:]}")
            time.sleep(0.005)


@dataclass(frozen=True)
class Whole:
    """The undisturbed run."""

    directory: Path
    start_s: float
    """Until its first step was recorded."""
    step_s: float
    """Per step, saves included."""


def undisturbed(launch: Callable[[], Life], directory: Path) -> Whole:
    """Trains to the end.

    Raises:
        UserError: the run failed.
    """
    started = time.monotonic()
    life, recorded = launch(), Recorded(directory / "metrics.jsonl")
    try:
        recorded.wait(1, life)
        first = time.monotonic()
        while (code := life.poll()) is None:
            time.sleep(0.05)
        if code != 0:
            raise UserError(f"the undisturbed run ended with {code}: {life.output()[-2000:]}")
    finally:
        life.kill()
    last = recorded.last()
    assert last is not None
    return Whole(directory, first - started, (time.monotonic() - first) / last)


def kill_once(launch: Callable[[], Life], directory: Path, moment: Moment, whole: Whole, every: int) -> Kill:
    """Starts the run and kills it."""
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
        if life.poll() is not None:
            raise UserError(f"the run ended by itself before it was killed: {life.output()[-2000:]}")
    finally:
        life.kill()
    seconds, last = time.monotonic() - started, recorded.last()
    running = what_was_running(checkpoints, last is not None)
    return Kill(seconds, running, before if last is None else last, newest(checkpoints))


def newest(checkpoints: Path) -> int:
    """The step of the newest finished checkpoint; 0: there is none."""
    found = finished_checkpoints(checkpoints)
    return int(found[-1].name.removeprefix("step_")) if found else 0


def killed_run(
    launch: Callable[[], Life], directory: Path, moments: list[Moment], whole: Whole, every: int
) -> list[Kill]:
    """Kills the run at each of the moments, prints the table as it grows, and lets the last life end.

    Raises:
        UserError: the run failed by itself.
    """
    print(f"{'kill':>4} {'after':>8}  {'running':<12} {'step':>6} {'goes on from':>13} {'steps lost':>11}")
    kills = []
    for number, moment in enumerate(moments, 1):
        kill = kill_once(launch, directory, moment, whole, every)
        kills.append(kill)
        print(
            f"{number:>4} {kill.seconds:>6.1f} s  {kill.running:<12} {kill.step:>6,} {kill.checkpoint:>13,} "
            f"{kill.lost:>11,}",
            flush=True,
        )
    undisturbed(launch, directory)
    return kills


def differences(whole: Path, killed: Path) -> list[str]:
    """How the two runs differ; none if all figures and the last checkpoints' tensors are equal to the bit."""
    expected = {_what(entry): _figures(entry) for entry in read_metrics(whole / "metrics.jsonl")}
    found, seen = [], set()
    for entry in read_metrics_log(killed / "metrics.jsonl").appended:
        what, figures = _what(entry), _figures(entry)
        seen.add(what)
        if figures and figures != expected.get(what):
            found.append(f"step {entry['step']:,}: {expected.get(what)} and {figures}")
    missing = [what for what, figures in expected.items() if figures and what not in seen]
    found += [f"step {step:,}: no {kind}" for step, kind in missing]
    ours, theirs = (_last_files(path / "checkpoints") for path in (whole, killed))
    found += [f"{name} of the last checkpoints" for name in sorted(ours) if ours[name] != theirs.get(name)]
    return found


def _what(entry: dict[str, Any]) -> tuple[int, str]:
    return entry["step"], "loss" if "loss" in entry else "validation"


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    """What must not depend on kills."""
    return {key: value for key, value in entry.items() if key in FIGURES or key.startswith("valid.")}


def _last_files(checkpoints: Path) -> dict[str, str]:
    files = read_manifest(finished_checkpoints(checkpoints)[-1])["files"]
    # The others count starts, name the directory, or have a random number.
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".distcp")}


class Launched:
    """``python -m recipes.pretrain`` in a session of its own; several processes under torchrun."""

    def __init__(self, settings: list[str], processes: int, log: Path) -> None:
        launcher = []
        if processes > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            launcher = [
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(processes),
                "--master-port",
                port,
            ]
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *launcher, "-m", "recipes.pretrain", *settings],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Of Python itself, or of torchrun."""
        return self.process.poll()

    def kill(self) -> None:
        """The whole session: torchrun ends its processes by SIGTERM, which would let them save."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """Both streams."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def run(options: argparse.Namespace) -> None:
    """Trains undisturbed, trains with kills, compares."""
    spare = 5 * options.every
    steps = options.steps or 5 * options.kills + spare
    moments = schedule(options.kills, steps, options.seed, spare)
    with tempfile.TemporaryDirectory() as temporary:
        directory = (options.data or Path(temporary)).resolve()
        if not (directory / "train_hi.idx").exists():
            from benchmarks.measure.step_time import write_data

            write_data(directory)
        settings = [
            f"data_dir={directory}",
            f"output_dir={directory}",
            f"trainer.max_steps={steps}",
            "trainer.log_every_n_steps=1",
            f"trainer.val_check_interval={10 * options.every}",
            "trainer.limit_val_batches=1",
            f"trainer.checkpoint.every_n_steps={options.every}",
            "trainer.checkpoint.async_save=true",
            "save_nemo=false",
            *options.overrides,
        ]
        whole_name, killed_name = (f"{name}_{os.getpid()}" for name in ("whole", "killed"))

        def launch(name: str) -> Callable[[], Life]:
            log = directory / f"{name}.log"
            return lambda: Launched([*settings, f"name={name}"], options.processes, log)

        whole = undisturbed(launch(whole_name), directory / whole_name)
        print(f"undisturbed: {steps:,} steps, {1000 * whole.step_s:.0f} ms each, saves included", flush=True)
        kills = killed_run(launch(killed_name), directory / killed_name, moments, whole, options.every)
        summarize(kills, options.json)
        if found := differences(directory / whole_name, directory / killed_name):
            print(f"{len(found):,} differences: {'; '.join(found[:5])}", file=sys.stderr)
            sys.exit(1)
        print(f"losses equal bit for bit: {steps:,} steps, and every time one was repeated")


def summarize(kills: list[Kill], json_file: Path | None) -> None:
    """Prints how often each thing was hit, and the steps lost."""
    for running, times in Counter(kill.running for kill in kills).most_common():
        lost = [kill.lost for kill in kills if kill.running == running]
        print(
            f"{running:<12} {times:>4} kills, {sum(lost) / times:5.1f} steps lost each, at most {max(lost):,}"
        )
        record(json_file, who=running, kills=times, lost=sum(lost) / times, most=max(lost))
