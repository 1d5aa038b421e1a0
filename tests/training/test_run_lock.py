"""Two processes that want the same run directory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.training.run_lock import RunLock
from tests.support.corpus import TinyData
from tests.support.paths import ROOT
from tests.support.run_cases import start, wait_for_step

HOLDER = """
import os, sys, time
from pathlib import Path
from recipes.training.run_lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
if os.fork() == 0:  # As a data loader's worker that lives on.
    time.sleep(float(sys.argv[3]))
    os._exit(0)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def holder(directory: Path, seconds: float, child_seconds: float = 0.0) -> subprocess.Popen[str]:
    """A process that has the lock."""
    line = [sys.executable, "-c", HOLDER, str(directory), str(seconds), str(child_seconds)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_refused_after_some_patience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(tmp_path, 60)
    try:
        started = time.monotonic()
        with pytest.raises(UserError, match="is being written by another process"):
            RunLock(tmp_path).acquire(patience_s=1.0)
        assert 1.0 <= time.monotonic() - started < 5.0
        assert capsys.readouterr().out.count("\n") == 1
    finally:
        process.kill()
        process.communicate()


def test_waits_for_a_process_that_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(tmp_path, 1.5)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    process.communicate()
    assert "waiting up to 30 s" in capsys.readouterr().out


def test_a_child_of_a_killed_process_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = holder(tmp_path, 60, child_seconds=5)
    process.kill()
    process.wait()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert capsys.readouterr().out == ""
    process.communicate()


def test_a_directory_that_cannot_be_written_goes_without(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # Opening it for writing fails, for root too.
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_the_same_run_twice_at_once(tiny_data: TinyData, tmp_path: Path) -> None:
    """The second comes to nothing; the first does not notice."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="100000", optim__lr_decay_steps="20"
    )
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    first = start(settings)
    try:
        wait_for_step(metrics, 1, lambda: first.poll() is None)
        config = (tmp_path / "tiny" / "config.yaml").read_bytes()
        second = start([*settings, "trainer.log_every_n_steps=2"])
        out, err = second.communicate(timeout=120)
        assert second.returncode == 2 and out.count("\n") == 1
        assert err == (
            f"error: {tmp_path / 'tiny'} is being written by another process; wait for its end, or choose "
            "another name\n"
        )
        assert first.poll() is None and (tmp_path / "tiny" / "config.yaml").read_bytes() == config
        assert b'"event"' not in metrics.read_bytes()
    finally:
        first.terminate()
        out, err = first.communicate(timeout=60)
    assert first.returncode == 3, err
