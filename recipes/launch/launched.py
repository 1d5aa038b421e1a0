"""The jobs of a run, kept in its directory: what was submitted, what Slurm says of it, how it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.errors import UserError
from recipes.files import make_directory
from recipes.launch.command import Command
from recipes.launch.job_kinds import KINDS, PRETRAIN
from recipes.training.run_lock import LOCK_FILE

STATE = Path("logs/slurm")
LAUNCHED = STATE / "launched.jsonl"
STOP_FILE = STATE / "stop"
"""While it is there, a job that has stopped is not requeued."""
CLEAN, CLEANING = "clean", "job.json"
"""The kind of a cleaning job, and the record that it makes in its directory."""
SQUEUE_FIELDS = "%i|%T|%M|%l|%D|%R"


@dataclass(frozen=True)
class Launched:
    """A submitted job."""

    job: str
    time: float
    """Seconds since 1970."""
    command: str
    kind: str = PRETRAIN
    """What stands after ``job=``."""


@dataclass(frozen=True)
class Queued:
    """A job as Slurm shows it."""

    job: str
    state: str
    elapsed: str
    limit: str
    nodes: str
    where: str
    """The nodes, or why it waits."""

    def __str__(self) -> str:
        if self.state != "PENDING":
            return f"{self.job} {self.state.lower()} for {self.elapsed} of {self.limit}, nodes {self.where}"
        reason = self.where.strip("()")
        meaning = next((text for start, text in REASONS.items() if reason.startswith(start)), None)
        return f"{self.job} pending: {reason}" + (f", {meaning}" if meaning else "")


REASONS = {
    "Resources": "its nodes are busy",
    "Priority": "other jobs are before it",
    "Dependency": "it follows another job",
    "BeginTime": "it begins in a moment, as after every requeue",
    "PartitionDown": "the partition is closed; nothing starts until its administrators open it",
    "PartitionInactive": "the partition is closed; nothing starts until its administrators open it",
    "PartitionNodeLimit": "the partition does not give so many nodes: it will not start",
    "PartitionTimeLimit": "the partition does not give so much time: it will not start",
    "ReqNodeNotAvail": "nodes are down, drained or reserved",
    "JobHeld": "it is held: scontrol release JOB",
    "launch failed requeued held": "its node could not start it: scontrol release JOB",
    "Assoc": "a limit of your account or project",
    "QOS": "a limit of the quality of service",
}
"""What Slurm's reasons for waiting mean, by their beginnings."""


def remember(run: Path, launched: Launched) -> None:
    """Adds a job to the run's own list.

    Raises:
        UserError: it cannot be written.
    """
    make_directory(run / STATE)
    try:
        with (run / LAUNCHED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(launched), ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{run / LAUNCHED}: cannot be written: {error.strerror}") from None


def jobs_of(run: Path) -> list[Launched]:
    """All jobs that were submitted, the oldest first; of other programs' lines none."""
    found: list[Launched] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for line in (run / LAUNCHED).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):
                found.append(Launched(**json.loads(line)))
    return [each for each in found if isinstance(each.job, str) and each.job.isdecimal()]


def kind_of_jobs(run: Path) -> str:
    """What the newest job does; what was not launched is cleaning, if it has its record, or pretraining."""
    jobs = jobs_of(run)
    if jobs:
        return jobs[-1].kind
    return CLEAN if (run / CLEANING).exists() else PRETRAIN


def queued(run: Path) -> list[Queued]:
    """Those of the run's jobs that wait or run.

    Raises:
        UserError: Slurm does not answer.
    """
    numbers = {launched.job for launched in jobs_of(run)}
    if not numbers:
        return []
    # Not --jobs=...: squeue fails if one of them is too old to be known.
    command = Command(["squeue", "--me", "--noheader", f"--format={SQUEUE_FIELDS}"], {})
    rows = [line.split("|", 5) for line in command.output().splitlines()]
    # JOB_ELEMENT or JOB_[FIRST-LAST] in an array.
    return [Queued(*row) for row in rows if len(row) == 6 and row[0].partition("_")[0] in numbers]


def writer_of(run: Path) -> int | None:
    """The process of this machine that writes the run, first rank of a run in the foreground."""
    try:
        with (run / LOCK_FILE).open("rb+") as file:
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    except OSError:
        return None
    kind, _, _, _, pid = struct.unpack("hhqqi4x", answer)
    return pid if kind != fcntl.F_UNLCK and pid > 0 else None


def stop(run: Path) -> list[str]:
    """Asks all jobs of a run to save and to stop, and to start no other; returns what was done.

    Raises:
        UserError: nothing of it runs or waits, or Slurm does not answer.
    """
    done = []
    kind = kind_of_jobs(run)
    own_stages = kind in KINDS and KINDS[kind].tasks == "own"
    for job in queued(run):
        make_directory(run / STATE)
        (run / STOP_FILE).touch()
        if job.state == "PENDING":
            Command(["scancel", job.job], {}).output()
            done.append(f"job {job.job} is cancelled, it had not begun")
        elif own_stages:
            Command(["scancel", job.job], {}).output()
            done.append(f"job {job.job} is cancelled, what it has finished is kept")
        else:
            Command(["scancel", "--batch", "--signal=USR1", job.job], {}).output()
            done.append(f"job {job.job} saves and stops, and is not requeued")
    if done:
        return done
    pid = writer_of(run)
    if pid is None:
        raise UserError(f"{run}: nothing of this run is running or waiting here")
    os.kill(pid, signal.SIGTERM)
    return [f"process {pid} saves and stops"]


def allow_requeueing(run: Path) -> None:
    """Takes back an earlier stop; a job that is submitted now should go on."""
    (run / STOP_FILE).unlink(missing_ok=True)


def log_files(run: Path) -> list[Path]:
    """The tasks' logs of the newest start, one for each node, or nothing; of a cleaning job, those of its
    newest stage."""
    logs = sorted((run / STATE).glob("*.*.*.log"), key=_start_of)
    if not logs and (stages := sorted(run.glob("logs/*/slurm_logs"), key=lambda path: path.stat().st_mtime)):
        return sorted(stages[-1].glob("*.out"))
    return [path for path in logs if _start_of(path) == _start_of(logs[-1])]


def _start_of(log: Path) -> tuple[int, int]:
    """Job and restart in a log's name, JOB.RESTART.NODE.log."""
    job, restart, *_ = log.name.split(".")
    return (int(job), int(restart)) if job.isdecimal() and restart.isdecimal() else (-1, -1)
