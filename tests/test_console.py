"""What long runs show on a terminal and in a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Forty steps of 50 kB in about two seconds, looked at every 0.2 s.
RUN = """
import sys, time
from recipes import console
console.TERMINAL_INTERVAL_S = console.LOG_INTERVAL_S = float(sys.argv[1])
started = time.monotonic()
with console.Progress(2_000_000, label="copying") as progress:
    for number in range(1, 41):
        time.sleep(0.05)
        progress.add(50_000, f"{number} files")
    progress.add(1_000_000)  # More than was announced.
print("done", time.monotonic() - started, file=sys.stderr)
"""
AMOUNT, RATE, TIME_LEFT = r"[\d.]+[kM]?", r"[\d.]+[kM]?B/s", r"\d\d:\d\d"


def logged(tmp_path: Path, code: str, *arguments: str) -> str:
    """What a process writes on stderr when that is a file."""
    with (tmp_path / "log").open("wb") as log:
        environment = {**os.environ, "COLUMNS": "30"}  # As Slurm passes on from the shell.
        line = [sys.executable, "-c", code, *arguments]
        subprocess.run(line, cwd=ROOT, env=environment, stderr=log, check=True)
    return (tmp_path / "log").read_bytes().decode()


def on_a_terminal(code: str, *arguments: str) -> str:
    """What a process writes on stderr when that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        try:
            while some := os.read(ours, 1 << 16):
                written += some
        except OSError:  # How Linux says that nobody has the terminal open any more.
            pass
        os.close(ours)
    assert process.returncode == 0
    return written.decode()


def seconds(done: str) -> float:
    """What the last line says."""
    word, number = done.split()
    assert word == "done"
    return float(number)


def test_a_log_gets_whole_lines(tmp_path: Path) -> None:
    text = logged(tmp_path, RUN, "0.2")
    *lines, done = text.splitlines()
    assert "\r" not in text and "\x1b" not in text
    assert 2 <= len(lines) <= seconds(done) / 0.2
    pattern = rf"copying: {AMOUNT}/2\.00M \((\d+)%\), {RATE}, {TIME_LEFT} left, (\d+) files"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    shares = [int(match[1]) for match in found if match]
    assert shares == sorted(set(shares)) and all(0 < share <= 100 for share in shares)


def test_a_terminal_gets_one_line_that_is_gone_at_the_end() -> None:
    text = on_a_terminal(RUN, "0.2")
    assert text.count("\n") == 1, "the line after it"
    *shown, done = text.split("\r")[:-1]
    bars = [line for line in shown if line.strip()]
    assert 2 <= len(bars) <= seconds(done) / 0.2
    pattern = rf"copying: +\d+%\|.*\| {AMOUNT}/2\.00M \[\d\d:\d\d<{TIME_LEFT}, {RATE}, \d+ files\] *"
    assert all(re.fullmatch(pattern, line) for line in bars), bars
    assert shown[-1] == " " * len(shown[-2]), "overwritten with spaces"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_done_at_once_shows_nothing(tmp_path: Path, terminal: bool) -> None:
    text = on_a_terminal(RUN, "60") if terminal else logged(tmp_path, RUN, "60")
    assert text.count("\n") == 1 and seconds(text) > 1


COUNTED = """
import time
from recipes import console
console.TERMINAL_INTERVAL_S = console.LOG_INTERVAL_S = 0.1
with console.Progress(unit="task", done=6) as progress:
    time.sleep(0.2)
    progress.update_to(6, 8)
    time.sleep(0.2)
    progress.update_to(7, 8, "3.0 MB read")
with console.Progress(2, enabled=False) as progress:
    time.sleep(0.2)
    progress.add(1)
"""


def test_counts_and_what_was_done_before(tmp_path: Path) -> None:
    first, second = logged(tmp_path, COUNTED).splitlines()
    assert first == "6/8 (75%)", "neither a rate nor the time left is known"
    # One task in 0.4 s or more: those of before do not count.
    match = re.fullmatch(r"7/8 \(88%\), +([\d.]+)task/s, 00:0\d left, 3\.0 MB read", second)
    assert match is None or float(match[1]) <= 5, second
    assert match or re.fullmatch(r"7/8 \(88%\), +[\d.]+s/task, \d\d:\d\d left, 3\.0 MB read", second)


def test_a_terminal_shows_what_is_known_too() -> None:
    first, second = [line for line in on_a_terminal(COUNTED).split("\r") if line.strip()][:2]
    assert re.fullmatch(r" 75%\|.*\| 6/8 \[\d\d:\d\d\] *", first), first
    assert re.fullmatch(r" 88%\|.*\| 7/8 \[\d\d:\d\d<.*task.*, 3\.0 MB read\] *", second), second


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    code = (
        "from recipes import console; console.LOG_INTERVAL_S = 0\n"
        "with console.Progress(3) as progress:\n    progress.add(1)\n    progress.add(1)\n"
        "print('went on')\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True, check=True
        )
    assert done.stdout == "went on\n"


def test_an_end_that_cannot_be_told_keeps_its_exit_code() -> None:
    """What a job does by itself depends on it: a log is on the disk that is full."""
    code = (
        "from recipes.cli import run_tool\nfrom recipes.errors import UserError\n"
        "def fail(): raise UserError('disk full')\nrun_tool(fail)"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=full)
    assert done.returncode == 2


def test_a_bar_says_no_more_when_all_is_done(tmp_path: Path) -> None:
    """Conversion warns when it has read everything, before its progress is closed."""
    code = (
        "import sys; from recipes import console; console.TERMINAL_INTERVAL_S = 0\n"
        "with console.Progress() as progress:\n"
        "    progress.update_to(1, 2)\n    progress.update_to(2, 2)\n    console.warn('late')\n"
    )
    assert on_a_terminal(code).split("\r")[-2:] == ["warning: late", "\n"]
