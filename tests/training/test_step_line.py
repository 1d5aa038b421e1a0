"""What one sees of steps: whole lines in a log, one line on a terminal that fits it."""

from __future__ import annotations

import os
import pty
import re
import sys
import termios

import pytest

from recipes import console
from recipes.training.step_line import StepLines
from tests.support.pool import process_context

RECORD = {
    "step": 1200,
    "consumed_tokens": 1_228_800,
    "loss": 3.21456,
    "lr": 1e-3,
    "grad_norm": 0.9121,
    "tokens_per_second_per_device": 12345.6,
    "mfu": 0.4123,
    "memory_bytes": 3 * 2**30,
}
WHOLE = (
    "step   1,200/4,000  1.23M tokens  loss  3.2146  lr 1.00e-03  grad norm  0.912  12,346 tokens/s  "
    "MFU 41.2 %  3.0 GiB  1h05m left"
)


def test_a_log_gets_a_line_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    lines = StepLines(4000, 0, devices=1)
    lines.step_ended(1199)
    lines.logged(RECORD, 3900)
    lines.step_ended(1200)
    lines.close()
    assert capsys.readouterr().out == WHOLE + "\n"


def test_what_is_not_known_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    StepLines(4000, 0, devices=2).logged(RECORD | {"mfu": None}, None)
    line = capsys.readouterr().out
    assert "MFU" not in line and "left" not in line and line.endswith("12,346 tokens/s/process  3.0 GiB\n")


def write_steps(terminal: str) -> None:
    """A process's steps, where both of its streams are a terminal."""
    descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(descriptor, stream)
        setattr(sys, name, open(stream, "w", buffering=1))  # noqa: PTH123, SIM115 - As Python opens it on a terminal.
    os.close(descriptor)
    for variable in ("COLUMNS", "LINES"):
        os.environ.pop(variable, None)
    console.TERMINAL_INTERVAL_S = 0.0
    lines = StepLines(4000, 1000, devices=1)
    lines.step_ended(1001)
    lines.logged(RECORD, 3900)
    lines.step_ended(1200)
    console.say("valid  hi.loss 3.1")
    lines.step_ended(1201)
    lines.close()
    console.say("done")


def on_a_terminal(columns: int) -> str:
    """What :func:`write_steps` writes on it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = process_context().Process(target=write_steps, args=(os.ttyname(theirs),))
    process.start()
    process.join()  # What it writes fits into the terminal's buffer.
    os.close(theirs)
    written = b""
    try:
        while some := os.read(ours, 1 << 16):
            written += some
    except OSError:  # How Linux says that nobody has the terminal open any more.
        pass
    os.close(ours)
    assert process.exitcode == 0, written
    return written.decode()


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (200, WHOLE.removeprefix("step   1,200/4,000  ")),
        (80, "loss  3.2146  12,346 tokens/s  1h05m left"),
        (46, "loss  3.2146"),
        (40, ""),
    ],
)
def test_a_terminal_gets_one_line_that_fits_it(columns: int, shown: str) -> None:
    text = on_a_terminal(columns)
    # A terminal shows of each line what was written last.
    kept = [[part for part in line.split("\r") if part.strip()] for line in text.split("\r\n")]
    assert [parts[-1].strip() for parts in kept if parts] == ["valid  hi.loss 3.1", WHOLE, "done"]
    live = [part for parts in kept for part in parts if "| step" in part]
    counts = [re.search(r"\| step +([\d,]+)/4,000", part) for part in live]
    assert [match[1] for match in counts if match] == ["1,001", "1,200", "1,200", "1,201"]
    assert all(len(part) < columns for part in live)
    figures = [part.partition("/4,000")[2].strip() for part in live]
    assert figures == ["", shown, shown, shown]
