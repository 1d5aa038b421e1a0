"""Two processes that want the same run directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.run_directory import read_metrics
from recipes.training import run_lock
from recipes.training.run_lock import RunLock
from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.paths import ROOT
from tests.support.run_cases import wait_for_step

HOLDER = """
import os, sys, time
from pathlib import Path
from recipes.training.run_lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
child = os.fork()  # As a data loader's worker that lives on.
if child == 0:
    os.close(1)
    time.sleep(100)
    os._exit(0)
print(child, flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock, and a child that outlives it."""
    line = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        yield process
        os.kill(child, 0)  # It lives to the end of the test.
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_refused_after_some_patience(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="is being written by another process"):
        RunLock(tmp_path).acquire(patience_s=0.5)
    assert time.monotonic() - started >= 0.5
    assert capsys.readouterr().out.count("\n") == 1


def test_waits_for_a_process_that_ends(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        holder.kill()

    monkeypatch.setattr(run_lock, "say", say)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert len(said) == 1 and "waiting up to 30 s" in said[0]


def test_a_child_of_a_killed_process_holds_nothing(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder.kill()
    holder.wait()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert capsys.readouterr().out == ""


def test_a_directory_that_cannot_be_written_goes_without(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # Opening it for writing fails, for root too.
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def impatient() -> None:
    run_lock.PATIENCE_S = 0.5


def test_the_same_run_twice_at_once(tiny_data: TinyData, tmp_path: Path) -> None:
    """The second comes to nothing; the first does not notice."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path), save_nemo="false", trainer__max_steps="100000", optim__lr_decay_steps="20"
    )
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    first = Forked("recipes.pretrain", settings)
    try:
        wait_for_step(metrics, 1, lambda: first.poll() is None)
        config = (tmp_path / "tiny" / "config.yaml").read_bytes()
        second = Forked("recipes.pretrain", [*settings, "trainer.log_every_n_steps=2"], impatient)
        out, err = second.communicate(timeout=240)
        assert second.returncode == 2 and out.count("\n") == 1
        assert err == (
            f"error: {tmp_path / 'tiny'} is being written by another process; wait for its end, or choose "
            "another name\n"
        )
        assert first.poll() is None and (tmp_path / "tiny" / "config.yaml").read_bytes() == config
        events = [record["event"] for record in read_metrics(metrics) if "event" in record]
        assert events == ["first_step"]
    finally:
        first.terminate()
        out, err = first.communicate(timeout=240)
    assert first.returncode == 3, err
