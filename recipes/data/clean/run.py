"""Runs the stages of a cleaning job on datatrove's executors."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before datatrove sets up its log: what its parent process would say is said by `_Progress`.
os.environ.setdefault("LOGURU_LEVEL", "CRITICAL")

import multiprocess
from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from datatrove.utils.stats import PipelineStats

from recipes.data.clean.config import CleanConfig
from recipes.data.clean.plan import Plan, claim
from recipes.data.clean.stages import Stage, build_stages
from recipes.data.clean.summary import REPORT, render
from recipes.errors import UserError


def clean(config: CleanConfig, plan: Plan) -> None:
    """Runs what is not done yet and prints the table; on Slurm, submits it.

    Raises:
        UserError: the output directory belongs to another job, or another process works on it.
    """
    claim(config, plan)
    out = Path(config.output_dir).resolve()
    if not (out / REPORT).exists():
        stages = build_stages(config, plan)
        if config.executor == "slurm":
            last = submit(config, stages, out)
            print(f"submitted; the last job is {last}. When it is done: {out / 'report.html'},")
            print("and the same command prints the table")
            return
        with _only_one(out):
            run_here(config, stages, out)
    if not config.keep_work:
        shutil.rmtree(out / "work", ignore_errors=True)
    print(render(json.loads((out / REPORT).read_text(encoding="utf-8"))))
    print(f"kept: {out / 'kept'}; page: {out / 'report.html'}")


def run_here(config: CleanConfig, stages: list[Stage], out: Path) -> None:
    """One stage after the other, each over `workers` processes."""
    workers = config.workers or len(os.sched_getaffinity(0))
    # Workers are copies of a server that has imported the stages: a stage begins at once.
    multiprocess.set_forkserver_preload(["recipes.data.clean.stages"])
    for number, stage in enumerate(stages, start=1):
        logs = out / "logs" / stage.name
        executor = LocalExecutor(
            stage.pipeline, tasks=stage.tasks, workers=min(workers, stage.tasks), logging_dir=str(logs)
        )
        with _Progress(f"{number}/{len(stages)} {stage.name}", logs, stage.tasks), _no_child_left():
            executor.run()


@contextlib.contextmanager
def _no_child_left() -> Iterator[None]:
    """Ends processes that datatrove was just starting when it was interrupted: Python would wait for them."""
    try:
        yield
    except BaseException:
        for process in multiprocess.active_children():
            process.kill()
        raise


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's, with its log in files only, and Ctrl-C left to the parent process."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        if multiprocess.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            return super()._run_for_rank(rank, local_rank, node_rank)


def slurm_executors(config: CleanConfig, stages: list[Stage], out: Path) -> list[SlurmPipelineExecutor]:
    """One job array per stage; each waits for the one before it."""
    executors: list[SlurmPipelineExecutor] = []
    for stage in stages:
        executors.append(
            SlurmPipelineExecutor(
                stage.pipeline,
                tasks=stage.tasks,
                time=config.slurm.time,
                partition=config.slurm.partition,
                cpus_per_task=config.slurm.cpus_per_task,
                mem_per_cpu_gb=config.slurm.mem_per_cpu_gb,
                workers=config.workers or -1,
                job_name=f"clean_{stage.name}",
                qos=config.slurm.qos,
                env_command=config.slurm.env_command,
                # Jobs after one that failed must not wait for ever.
                sbatch_args={"kill-on-invalid-dep": "yes", **config.slurm.sbatch_args},
                depends=executors[-1] if executors else None,
                logging_dir=str(out / "logs" / stage.name),
            )
        )
    return executors


def submit(config: CleanConfig, stages: list[Stage], out: Path) -> str:
    """Submits all stages; those that are done are left out. Returns the last job's number.

    Raises:
        UserError: sbatch refuses, or the jobs of an earlier call are still in the queue.
    """
    record = out / "slurm_job"
    if record.exists():
        number = record.read_text().strip()
        queued = subprocess.run(["squeue", "-h", "-j", number], capture_output=True, text=True, check=False)
        if queued.stdout.strip():
            raise UserError(f"output_dir={out}: job {number} is still in the queue: wait for it or cancel it")
    executors = slurm_executors(config, stages, out)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            executors[-1].run()  # submits those that it waits for
    except subprocess.CalledProcessError as error:
        raise UserError(f"sbatch refused a job of {out}/logs (exit code {error.returncode})") from error
    number = str(executors[-1].job_id)
    record.write_text(f"{number}\n")
    return number


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    with (out / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"output_dir={out}: another process works there: wait for it") from None
        yield


class _Progress:
    """A line on stderr: rewritten on a terminal, a new one every ten seconds elsewhere."""

    def __init__(self, name: str, logs: Path, tasks: int) -> None:
        self._name, self._logs, self._tasks = name, logs, tasks
        self._stream: Any = sys.stderr  # as it is now: the executor redirects it
        self._terminal = sys.stderr.isatty()
        self._done = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
        self._show("\n")

    def _watch(self) -> None:
        while not self._done.wait(0.5 if self._terminal else 10.0):
            self._show("\r" if self._terminal else "\n")

    def _show(self, end: str) -> None:
        finished = len(list(self._logs.glob("completions/*")))
        read = sum(int(file.read_text() or 0) for file in self._logs.glob("progress/*"))
        amount = f", {read / 1e6:.1f} MB read" if read else ""
        seconds = time.monotonic() - self._began
        line = f"{self._name}: {finished} of {self._tasks} tasks{amount}, {seconds:.0f} s"
        print(line, end=end, file=self._stream, flush=True)
