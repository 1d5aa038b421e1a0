"""The jobs that a run remembers, and the process that writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tools.launch
from recipes.errors import UserError
from recipes.launch.launched import Launched, Queued, jobs_of, log_files, remember, stop, writer_of
from recipes.launch.progress import progress_lines
from recipes.run_directory import RunDirectory

HOLDER = """
import sys
from pathlib import Path
from recipes.training.run_lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_jobs_are_remembered_and_torn_lines_are_not(tmp_path: Path) -> None:
    assert jobs_of(tmp_path) == []
    jobs = [Launched("12", 1.0, "sbatch x"), Launched("13", 2.0, "sbatch हिन्दी")]
    for job in jobs:
        remember(tmp_path, job)
    with (tmp_path / "logs/slurm/launched.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"job": "14; rm -rf /", "time": 3, "command": ""}\n{"job": "15", "ti')
    assert jobs_of(tmp_path) == jobs


def test_the_writer_of_a_run_is_found_and_asked_to_stop(tmp_path: Path) -> None:
    assert writer_of(tmp_path) is None
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    assert writer_of(tmp_path) == holder.pid
    assert stop(tmp_path) == [f"process {holder.pid} saves and stops"]
    assert holder.wait() == -15
    assert writer_of(tmp_path) is None
    with pytest.raises(UserError, match="nothing of this run is running"):
        stop(tmp_path)


def test_the_logs_of_the_newest_start(tmp_path: Path) -> None:
    assert log_files(tmp_path) == []
    directory = tmp_path / "logs/slurm"
    directory.mkdir(parents=True)
    for name in ("9.3.node0.log", "10.0.node0.log", "10.2.node0.log", "10.2.node1.log", "x.y.z.log"):
        (directory / name).touch()
    assert [path.name for path in log_files(tmp_path)] == ["10.2.node0.log", "10.2.node1.log"]


def test_status_without_an_answer_of_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the run has written is told; whether it runs is not guessed."""
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n", encoding="utf-8")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent), prepend=os.pathsep)
    run = tmp_path / "run"
    remember(run, Launched("12", 1.0, "sbatch x"))
    RunDirectory(run).append_metrics({"step": 7, "loss": 2.5})
    monkeypatch.setattr(sys, "argv", ["launch", "status", str(run)])
    tools.launch.main()
    job, step, _ = capsys.readouterr().out.splitlines()
    assert job == "job        unknown: squeue ended with 1: Unable to contact slurm controller"
    assert step.startswith("step       7, loss 2.5")
    monkeypatch.setattr(sys, "argv", ["launch", "stop", str(run)])
    with pytest.raises(UserError, match="squeue ended with 1"):
        tools.launch.main()


def test_progress(tmp_path: Path) -> None:
    assert progress_lines(tmp_path, False) == ["step       none yet", "checkpoint none yet"]
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1200, "loss": 2.5, "tokens_per_second": 12345.0})
    (tmp_path / "checkpoints/step_00001000").mkdir(parents=True)
    (tmp_path / "checkpoints/step_00001000/manifest.json").touch()
    (tmp_path / "checkpoints/step_00001100").mkdir()
    os.utime(run.metrics_file)
    step, checkpoint = progress_lines(tmp_path, True)
    assert step.startswith("step       1,200, loss 2.5000, 12,345 tokens/s, written ")
    assert checkpoint == f"checkpoint {tmp_path / 'checkpoints/step_00001000'}"


def test_how_a_run_has_ended_is_told(tmp_path: Path) -> None:
    remember(tmp_path, Launched("12", 1.0, "sbatch x"))
    log = tmp_path / "logs/slurm/12.out"
    log.write_text("[now] starting\n[now] srun ended, exit code 2\n", encoding="utf-8")
    (log.parent / "12.0.node0.log").write_text("0: error: no data\n", encoding="utf-8")
    told = [f"log        {log}: [now] srun ended, exit code 2", "said       error: no data"]
    assert progress_lines(tmp_path, False) == [*told, "step       none yet", "checkpoint none yet"]
    assert progress_lines(tmp_path, True) == ["step       none yet", "checkpoint none yet"]


def test_why_a_job_waits() -> None:
    waits = Queued("7", "PENDING", "0:00", "10:00", "4", "(PartitionNodeLimit)")
    assert (
        str(waits)
        == "7 pending: PartitionNodeLimit, the partition does not give so many nodes: it will not start"
    )
    assert str(replace(waits, where="(Other)")) == "7 pending: Other"
    runs = Queued("7", "RUNNING", "0:31", "10:00", "2", "node[0-1]")
    assert str(runs) == "7 running for 0:31 of 10:00, nodes node[0-1]"


def test_logs_of_a_run_in_the_foreground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["launch", "logs", str(tmp_path)])
    with pytest.raises(UserError, match="was not launched on Slurm: its lines are where it was started"):
        tools.launch.main()
    remember(tmp_path, Launched("12", 1.0, "sbatch x"))
    with pytest.raises(UserError, match="no logs of tasks yet"):
        tools.launch.main()
