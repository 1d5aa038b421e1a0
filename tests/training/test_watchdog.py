"""What the watchdog takes for a hang, in processes of its own: it ends them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.run_cases import environment

TIMEOUT_S = 1.0
START = """
import sys, time
from pathlib import Path
from recipes.run_directory import RunDirectory
from recipes.training.callbacks.hang import Hang

run = Path(sys.argv[1])
(run / "checkpoints" / ".step_00000004.partial").mkdir(parents=True)
hang = Hang(float(sys.argv[2]), RunDirectory(run), rank=1)
hang.on_train_start(None, None)
"""


def ended(run: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    (run / "logs").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", "\n".join([START, *lines]), str(run), str(TIMEOUT_S)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_save_that_is_being_written_is_no_hang(tmp_path: Path) -> None:
    """Of another rank, for four times as long as nothing may be heard; once it stands still, it is one."""
    writes = """
for _ in range(20):
    time.sleep(0.2)
    with (run / "checkpoints/.step_00000004.partial/__0_0.distcp").open("ab") as file:
        file.write(b"more")
print("written", flush=True)
time.sleep(60)
"""
    began = time.monotonic()
    done = ended(tmp_path, writes)
    assert done.returncode == 5 and done.stdout == "written\n", done.stderr
    assert time.monotonic() - began > 5 * TIMEOUT_S
    log = tmp_path / "logs/hang_rank_1.txt"
    assert (
        f"rank 1: nothing has ended for 1 s since the start of training; its stacks are in {log}"
        in done.stderr
    )
    assert 'File "<string>"' in log.read_text()


def test_a_disk_that_does_not_answer_keeps_no_process_alive(tmp_path: Path) -> None:
    """Opening a pipe that nobody reads never ends."""
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs/hang_rank_1.txt")
    done = ended(tmp_path, "time.sleep(60)")
    assert done.returncode == 5, done
    assert "its stacks are in the log" in done.stderr and 'File "<string>"' in done.stderr
