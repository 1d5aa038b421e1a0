"""The processes that a command starts of itself: how they end with it, and it with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.run_cases import environment, heed_hang_ups

PROGRAM = """
import os, pathlib, sys, time
from recipes.parallel.local_processes import named_first, run_in_processes
place = pathlib.Path(sys.argv[1])
if "RANK" not in os.environ:
    sys.exit(run_in_processes(2))
new = place / (os.environ["RANK"] + ".new")
new.write_text(str(os.getpid()))
new.rename(place / os.environ["RANK"])
with (place / "connection").open("wb" if os.environ["RANK"] == "1" else "rb") as connection:
    if os.environ["RANK"] == "1":
        time.sleep(600)
    connection.read()
with named_first():
    raise RuntimeError("rank 1 has gone")
"""
WAIT_S = 60


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Both of its processes have started, and wait; rank 0 fails if rank 1 goes."""
    os.mkfifo(tmp_path / "connection")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_hang_ups,
    ) as launcher:
        try:
            deadline = time.monotonic() + WAIT_S
            while not all((tmp_path / rank).exists() for rank in "01"):
                assert time.monotonic() < deadline and launcher.poll() is None
                time.sleep(0.02)
            yield launcher
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)


def rank(number: int, place: Path) -> int:
    return int((place / str(number)).read_text())


def wait_for_end(*processes: int) -> None:
    deadline = time.monotonic() + WAIT_S
    for process in processes:
        while Path(f"/proc/{process}").exists() and "\nState:\tZ" not in _status(process):
            assert time.monotonic() < deadline, process
            time.sleep(0.02)


def _status(process: int) -> str:
    try:
        return Path(f"/proc/{process}/status").read_text()
    except OSError:
        return "\nState:\tZ"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_they_end_with_the_command(
    number: signal.Signals, launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A time limit, a container that is stopped, a terminal that is closed."""
    launcher.send_signal(number)
    assert launcher.wait(WAIT_S) == -number
    wait_for_end(rank(0, tmp_path), rank(1, tmp_path))


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_is_named(
    killed: int, launcher: subprocess.Popen[str], tmp_path: Path
) -> None:
    """As by the kernel, for lack of memory; not the other one, which waits or loses its connection to it."""
    os.kill(rank(killed, tmp_path), signal.SIGKILL)
    out, err = launcher.communicate(timeout=WAIT_S)
    assert (launcher.returncode, out) == (128 + signal.SIGKILL, "")
    assert err.startswith(f"error: rank {killed} of 2 processes was ended by SIGKILL: ")
    assert len(err.splitlines()) == 1
    wait_for_end(rank(0, tmp_path), rank(1, tmp_path))


def test_ctrl_c_is_the_processes_own(launcher: subprocess.Popen[str], tmp_path: Path) -> None:
    """A terminal sends it to all; what rank 0 makes of it counts."""
    os.killpg(launcher.pid, signal.SIGINT)
    _, err = launcher.communicate(timeout=WAIT_S)
    assert launcher.returncode == 128 + signal.SIGINT and err.count("KeyboardInterrupt") == 1
    wait_for_end(rank(0, tmp_path), rank(1, tmp_path))
