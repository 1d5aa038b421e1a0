"""The processes of a run as a launcher sees them: started, followed, killed; and two runs compared."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.manifest import finished_checkpoints, read_manifest
from recipes.cli import DONE, STOPPED_BY_SIGNAL
from recipes.errors import UserError
from recipes.run_directory import read_metrics, read_metrics_log

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("loss", "lr", "grad_norm", "consumed_samples", "consumed_tokens")
LIMIT_S = 600.0
"""Without a sign of life."""
KILL_WAIT_S = 30.0
"""Slurm's KillWait: so long may the others go on when one has failed."""


class RunEnded(UserError):
    """A run came to its end, without a failure, before what was waited for."""


class Life(ABC):
    """A run's processes, from one start to their end."""

    @abstractmethod
    def codes(self) -> list[int | None]:
        """Each rank's exit code; None while it is alive."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL to all of them; returns when they are gone."""

    @abstractmethod
    def output(self) -> str:
        """What they have printed."""

    def poll(self) -> int | None:
        """The first exit code that is not 0; 0: of all; None: none has failed, and not all have ended."""
        codes = self.codes()
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self) -> list[int]:
        """The exit codes by rank. Once one has failed, the others must leave soon, as under srun."""
        failed_at = None
        while None in (codes := self.codes()):
            if failed_at is None and not {*codes} <= {None, DONE, STOPPED_BY_SIGNAL}:
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > KILL_WAIT_S:
                self.kill()
            time.sleep(0.02)
        self.kill()  # What the ranks have started, too.
        return [code for code in codes if code is not None]


class Launched(Life):
    """``python -m recipes.pretrain``, a process per rank, each in a session of its own."""

    def __init__(
        self, settings: list[str], processes: int, log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        """Starts it; ``log`` gets what the processes print, after what is there."""
        self.log, self.begin = log, log.stat().st_size if log.exists() else 0
        self.ranks = []
        port = _free_port()
        with log.open("ab") as file:
            for rank in range(processes):
                given = os.environ | _rank(rank, processes, port) | dict(variables or {})
                self.ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "recipes.pretrain", *settings],
                        cwd=ROOT,
                        env=given,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def codes(self) -> list[int | None]:
        return [rank.poll() for rank in self.ranks]

    def kill(self) -> None:
        # Their sessions, for data loaders have processes of their own.
        for rank in self.ranks:
            with suppress(ProcessLookupError):
                os.killpg(rank.pid, signal.SIGKILL)
        for rank in self.ranks:
            rank.wait()

    def output(self) -> str:
        return self.log.read_bytes()[self.begin :].decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _rank(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun would set. One process needs none of it."""
    if processes == 1:
        return {}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return address | sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


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
        """Until it is recorded.

        Raises:
            RunEnded: the run came to its end before, or had done so.
            UserError: it failed, or records no step any more.
        """
        begun, seen = time.monotonic(), None
        while (last := self.last()) is None or last < step:
            if (code := life.poll()) is not None:
                ended = RunEnded if code == DONE else UserError
                raise ended(f"the run ended by itself, before step {step:,}: {life.output()[-2000:]}")
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
    recorded, life = Recorded(directory / "metrics.jsonl"), launch()
    started = time.monotonic()
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


def newest(checkpoints: Path) -> int:
    """The step of the newest finished checkpoint; 0: there is none."""
    found = finished_checkpoints(checkpoints)
    return int(found[-1].name.removeprefix("step_")) if found else 0


def quick_start_settings(directory: Path, steps: int, every: int, processes: int) -> list[str]:
    """Of the quick start's run, on data in ``directory``, which is made unless it is there."""
    if not (directory / "train_hi.idx").exists():
        from benchmarks.measure.step_time import write_data

        write_data(directory)
    return [
        f"data_dir={directory}",
        f"output_dir={directory}",
        f"trainer.max_steps={steps}",
        f"trainer.micro_batch_size={max(1, 8 // processes)}",
        "trainer.log_every_n_steps=1",
        f"trainer.val_check_interval={10 * every}",
        "trainer.limit_val_batches=1",
        f"trainer.checkpoint.every_n_steps={every}",
        "save_nemo=false",
    ]


@dataclass(frozen=True)
class Compared:
    """The figures that a run has recorded so far, beside the undisturbed run's."""

    records: int
    """Steps and validations that were compared, those that came twice too."""
    different: list[str]
    missing: list[str]
    """What only the undisturbed run has."""


def compare_figures(whole: Path, killed: Path) -> Compared:
    """Compares to the bit, also while the second run goes on.

    Steps that it has taken back after a loss spike do not count.
    """
    expected = {_what(entry): _figures(entry) for entry in read_metrics(whole / "metrics.jsonl")}
    records, different, seen = 0, [], set()
    for entry in _not_taken_back(read_metrics_log(killed / "metrics.jsonl").appended):
        what, figures = _what(entry), _figures(entry)
        seen.add(what)
        records += bool(figures)
        if figures and figures != expected.get(what):
            different.append(f"step {entry['step']:,}: {expected.get(what)} and {figures}")
    missing = [what for what, figures in expected.items() if figures and what not in seen]
    return Compared(records, different, [f"step {step:,}: no {kind}" for step, kind in missing])


def differences(whole: Path, killed: Path) -> list[str]:
    """How two ended runs differ; none: all figures and the last checkpoints' tensors are equal to the bit."""
    figures = compare_figures(whole, killed)
    found = figures.different + figures.missing
    ours, theirs = (_last_files(path / "checkpoints") for path in (whole, killed))
    found += [f"{name} of the last checkpoints" for name in sorted(ours) if ours[name] != theirs.get(name)]
    return found


def _not_taken_back(appended: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records, those of steps that were trained again too, but none that a rollback has made void."""
    kept: list[dict[str, Any]] = []
    for entry in appended:
        while entry.get("event") == "rolled_back" and kept and kept[-1]["step"] > entry["step"]:
            kept.pop()
        kept.append(entry)
    return kept


def _what(entry: dict[str, Any]) -> tuple[int, str]:
    return entry["step"], "loss" if "loss" in entry else "validation"


def _figures(entry: dict[str, Any]) -> dict[str, float]:
    """What must not depend on kills."""
    return {key: value for key, value in entry.items() if key in FIGURES or key.startswith("valid.")}


def _last_files(checkpoints: Path) -> dict[str, str]:
    files = read_manifest(finished_checkpoints(checkpoints)[-1])["files"]
    # The others count starts, name the directory, or have a random number.
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".distcp")}
