"""Runs the stages of a cleaning job on datatrove's executors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Before datatrove sets up its log; `_watched` tells what that would.
os.environ.setdefault("LOGURU_LEVEL", "CRITICAL")

from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
from tqdm import tqdm

from recipes.config.clean_schema import CleanConfig
from recipes.console import Progress, note, warn
from recipes.counts import counted, size_in_words
from recipes.data.clean.plan import Plan, claim
from recipes.data.clean.stages import Stage, build_stages
from recipes.data.clean.summary import REPORT, render
from recipes.data.workers import WorkerDied, WorkerPool
from recipes.errors import UserError
from recipes.files import exclusive_lock, free_space


def clean(config: CleanConfig, plan: Plan) -> None:
    """Runs what is not done yet and prints the table; on Slurm, submits it.

    Raises:
        UserError: the output directory belongs to another job, or another process is working in it.
    """
    claim(config, plan)
    out = Path(config.output_dir).resolve()
    if not (out / REPORT).exists():
        if config.executor == "slurm":
            last = submit(config, build_stages(config, plan), out)
            print(f"submitted; the last job is {last}. When it is done: {out / 'report.html'},")
            print("and the same command prints the table")
            return
        with (out / "lock").open("w") as stream:
            exclusive_lock(stream, f"output_dir={out}: another process works there: wait for it")
            run_here(config, plan, out)
    if not config.keep_work:
        shutil.rmtree(out / "work", ignore_errors=True)
    summary = json.loads((out / REPORT).read_text(encoding="utf-8"))
    print(render(summary))
    for name, entry in summary["sources"].items():
        if not entry["kept"]["documents"]:
            warn(f"nothing is kept of source {name}")
    print(f"kept: {out / 'kept'}; page: {out / 'report.html'}")


def run_here(config: CleanConfig, plan: Plan, out: Path) -> None:
    """Runs one stage after the other in `workers` processes, which serve all stages.

    Raises:
        UserError: the disk is full, or a worker was killed; what is done stays done.
    """
    stages = build_stages(config, plan)
    workers = min(config.workers or len(os.sched_getaffinity(0)), max(stage.tasks for stage in stages))
    with WorkerPool(workers, _make_work, (config, plan)) as pool:
        for number, stage in enumerate(stages):
            executor = _executor(stage, out)
            ranks = executor.get_incomplete_ranks()
            with _watched(f"{number + 1}/{len(stages)} {stage.name}", out / "logs" / stage.name, stage.tasks):
                try:
                    for _ in pool.map((number, rank) for rank in ranks):
                        pass
                except WorkerDied:
                    raise UserError(
                        f"a worker process died in stage {stage.name} (out of memory?): the same command "
                        "goes on after the tasks that are done; try fewer workers"
                    ) from None


def _make_work(config: CleanConfig, plan: Plan) -> Callable[[tuple[int, int]], None]:
    """Called in a worker process; the result runs one task of one stage.

    datatrove's own pool is not used: it waits for ever for a worker that was killed, and its processes
    outlive a parent that was.
    """
    out = Path(config.output_dir).resolve()
    # For datatrove's bars: tqdm's default lock is a semaphore, which a killed worker leaves behind.
    tqdm.set_lock(threading.RLock())

    def work(task: tuple[int, int]) -> None:
        number, rank = task
        stage = build_stages(config, plan)[number]  # Steps hold counts, so each task needs new ones.
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
                _executor(stage, out)._run_for_rank(rank)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            raise UserError(f"output_dir={out}: {error.strerror} ({free_space(out)})") from error

    return work


def _executor(stage: Stage, out: Path) -> LocalPipelineExecutor:
    """datatrove's record of which tasks are done, its log (in files only) and its statistics."""
    return LocalPipelineExecutor(
        stage.pipeline, tasks=stage.tasks, workers=1, logging_dir=str(out / "logs" / stage.name)
    )


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
                # Jobs that depend on a failed one must not wait for ever.
                sbatch_args={"kill-on-invalid-dep": "yes", **config.slurm.sbatch_args},
                depends=executors[-1] if executors else None,
                logging_dir=str(out / "logs" / stage.name),
            )
        )
    return executors


def submit(config: CleanConfig, stages: list[Stage], out: Path) -> str:
    """Submits the stages that are not done, and returns the last job's number.

    Raises:
        UserError: sbatch refuses, or the jobs of an earlier call are still in the queue.
    """
    if earlier := submitted(out):
        number = earlier[-1]
        queued = subprocess.run(["squeue", "-h", "-j", number], capture_output=True, text=True, check=False)
        if queued.stdout.strip():
            raise UserError(f"output_dir={out}: job {number} is still in the queue: wait for it or cancel it")
    executors = slurm_executors(config, stages, out)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # noqa: PTH123
            executors[-1].run()  # Submits those it depends on first.
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"sbatch refused a job of {out}/logs (exit code {error.returncode}), see above: slurm.* asks "
            f"for {counted(config.slurm.cpus_per_task, 'processor')}, {config.slurm.mem_per_cpu_gb} GB each"
        ) from error
    finally:
        # Of a stage that is done, nothing is submitted; of one that was, the next may have been refused.
        numbers = [str(executor.job_id) for executor in executors if executor.job_id not in (None, -1)]
        (out / "slurm_job").write_text("\n".join([*numbers, ""]))
    return str(executors[-1].job_id)


def submitted(out: Path) -> list[str]:
    """The numbers of the jobs that were submitted last for an output directory, a stage after the other."""
    record = out / "slurm_job"
    return record.read_text().split() if record.exists() else []


@contextlib.contextmanager
def _watched(label: str, logs: Path, tasks: int) -> Iterator[None]:
    """Shows the progress of a stage while the block runs, and a summary line however it ends."""
    began = time.monotonic()
    ended = threading.Event()
    progress = Progress(tasks, "task", label=label, done=_so_far(logs)[0])

    def watch() -> None:
        while not ended.wait(progress.interval_s):
            finished, read = _so_far(logs)
            progress.update_to(finished, tasks, read)

    watcher = threading.Thread(target=watch, daemon=True)
    try:
        with progress:
            watcher.start()
            try:
                yield
            finally:
                ended.set()
                watcher.join()
    finally:
        finished, read = _so_far(logs)
        amount = f", {read}" if read else ""
        seconds = time.monotonic() - began
        note(f"{label}: {finished:,} of {counted(tasks, 'task')}{amount}, {seconds:.0f} s")


def _so_far(logs: Path) -> tuple[int, str]:
    """How many tasks of a stage are done, and how much they have read, if they read documents."""
    finished = len(list(logs.glob("completions/*")))
    read = sum(int(file.read_text() or 0) for file in logs.glob("progress/*"))
    return finished, f"{size_in_words(read)} read" if read else ""
