"""What run_tool does with every way a tool can end."""

import signal
import subprocess
import sys
import time

import pytest

PREFIX = "import sys, time; from recipes.cli import run_tool; from recipes.errors import UserError\n"


def run(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = PREFIX + f"def main():\n    {body}\nrun_tool(main)\n"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("body", "code"), [("pass", 0), ("return 0", 0), ("return 4", 4), ("sys.exit(3)", 3), ("print('x')", 0)]
)
def test_return_codes(body: str, code: int) -> None:
    done = run(body)
    assert done.returncode == code
    assert done.stderr == ""


def test_user_error_is_one_line_and_2() -> None:
    done = run(r"raise UserError('a.jsonl:3: no key\n  text')")
    assert (done.returncode, done.stderr) == (2, "error: a.jsonl:3: no key   text\n")


def test_what_would_steer_a_terminal_is_shown() -> None:
    done = run(r"raise UserError('a\x1b[2Jb\x07 \u202e \u0915\u094d\u200d\u0937 \udc80')")
    assert done.stderr == "error: a\\x1b[2Jb\\x07 \\u202e \u0915\u094d\u200d\u0937 \\udc80\n"


def test_other_errors_keep_their_traceback() -> None:
    done = run("raise ValueError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: bug" in done.stderr


def test_broken_pipe_elsewhere_keeps_its_traceback() -> None:
    done = run("raise BrokenPipeError(32, 'a socket')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_interrupt_is_one_line_and_130() -> None:
    code = PREFIX + "def main():\n    print('ready', flush=True); time.sleep(60)\nrun_tool(main)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, "interrupted\n")


def test_closed_pipe_is_silent() -> None:
    code = PREFIX + "def main():\n    [print('x' * 100) for _ in range(100000)]\nrun_tool(main)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.read(10)
        process.stdout.close()
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (141, b"")
