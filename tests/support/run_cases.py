"""Runs of recipes.pretrain for pool workers and as processes of their own."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked import Forked
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code, or 2 and the message of a UserError; and its history."""

    code: int
    message: str
    metrics: list[dict[str, Any]]
    stdout: str
    stderr: str

    @property
    def losses(self) -> dict[int, float]:
        return {record["step"]: record["loss"] for record in self.metrics if "loss" in record}


def _forget_process_groups() -> None:
    import torch.distributed as dist
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def run_case(overrides: list[str], limit_file_size: int | None = None) -> Outcome:
    """A run in this process; ``limit_file_size``: no file may grow beyond so many bytes."""
    from recipes.config.hydra_app import compose
    from recipes.errors import UserError
    from recipes.pretrain import run
    from recipes.run_directory import read_metrics

    config = compose("pretrain", overrides)
    metrics = Path(config.output_dir) / config.name / "metrics.jsonl"
    out, err = io.StringIO(), io.StringIO()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if limit_file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limits[1]))
        with redirect_stdout(out), redirect_stderr(err):
            code, message = run(config), ""
    except UserError as error:
        code, message = 2, str(error)
    except BaseException:
        _forget_process_groups()  # Lest the next run in this process fail for this one.
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return Outcome(code, message, read_metrics(metrics), out.getvalue(), err.getvalue())


def signalled_while_evaluating_case(overrides: list[str], rank: int) -> Outcome:
    """A run of which a rank gets SIGTERM while it answers the first unit of its first benchmark."""
    from recipes.evaluation.work import Work

    answer, told = Work._answer, False

    def answer_and_signal(*arguments: Any) -> Any:
        nonlocal told
        if not told and int(os.environ.get("RANK", "0")) == rank:
            told = True
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(*arguments)

    Work._answer = answer_and_signal  # type: ignore[method-assign]
    try:
        return run_case(overrides)
    finally:
        Work._answer = answer  # type: ignore[method-assign]


def signalled_case(
    overrides: list[str], step: int, number: int, times: int = 1, rank: int = 0, delay_s: float = 0.0
) -> Outcome:
    """A run whose process gets a signal, ``times`` in a row, ``delay_s`` after it has logged ``step``."""
    from recipes.config.hydra_app import compose

    config = compose("pretrain", overrides)
    if int(os.environ.get("RANK", "0")) == rank:
        metrics = Path(config.output_dir) / config.name / "metrics.jsonl"
        threading.Thread(target=_send, args=(metrics, step, number, times, delay_s), daemon=True).start()
    return run_case(overrides)


def _send(metrics: Path, step: int, number: int, times: int, delay_s: float) -> None:
    wait_for_step(metrics, step, lambda: True)
    time.sleep(delay_s)
    for _ in range(times):
        os.kill(os.getpid(), number)
        time.sleep(0.01)


def wait_for_step(metrics: Path, step: int, alive: Callable[[], bool], limit_s: float = 240) -> None:
    """Returns when ``metrics`` holds a loss of ``step`` or later."""
    from recipes.run_directory import read_metrics

    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and alive():
        if any(record["step"] >= step for record in read_metrics(metrics) if "loss" in record):
            return
        time.sleep(0.02)
    raise AssertionError(f"{metrics} did not reach step {step}")


def environment() -> dict[str, str]:
    """Ours without a launcher's variables."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {key: value for key, value in os.environ.items() if key not in names} | {"OMP_NUM_THREADS": "1"}


def command(module: str, overrides: list[str]) -> list[str]:
    return [sys.executable, "-m", module, *overrides]


def start(overrides: list[str], launcher: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    """``python -m recipes.pretrain`` as a process."""
    line = [sys.executable, *launcher, "-m", "recipes.pretrain", *overrides]
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_hang_ups,
        **options,
    )


def heed_hang_ups() -> None:
    """In a new process: nohup's way with SIGHUP is inherited."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def kill_at_step(
    process: subprocess.Popen[str] | Forked, metrics: Path, step: int, number: int = signal.SIGKILL
) -> tuple[int | None, str, str]:
    """Sends a signal to a run once ``step`` is logged; exit code, stdout, stderr."""
    try:
        wait_for_step(metrics, step, lambda: process.poll() is None)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err


def announce_validation(path: Path) -> None:
    """Lets a run say in a file, a letter for each, how many batches of held-out text it has begun."""
    from recipes.training.module import ParamGPT

    original: Any = ParamGPT.validation_step

    def announced(self: Any, *args: Any, **named: Any) -> Any:
        with path.open("a") as file:
            file.write(".")
        return original(self, *args, **named)

    ParamGPT.validation_step = announced  # type: ignore[method-assign]


def wait_for_file(directory: Path, alive: Callable[[], bool], limit_s: float = 240) -> None:
    """Returns when anything lies in ``directory``."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and alive():
        if any(directory.iterdir()):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing was written to {directory}")


def shown_case(overrides: list[str]) -> Outcome:
    """A run whose progress is shown at every occasion, as if each took long."""
    from recipes import console

    interval, console.LOG_INTERVAL_S = console.LOG_INTERVAL_S, 0.0
    try:
        return run_case(overrides)
    finally:
        console.LOG_INTERVAL_S = interval


def command_case(arguments: list[str]) -> tuple[int, str, str]:
    """``python -m recipes.pretrain`` in this process: exit code, standard output, standard error."""
    from recipes.config.hydra_app import run_job
    from recipes.pretrain import run

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["recipes.pretrain", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run_job("pretrain", run)
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()
