"""What run_tool does with every way a tool can end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def test_no_cycles_are_looked_for_at_the_end() -> None:
    """Which takes longer than many a command. What has to be done at the end is registered."""
    knot = "C = type('C', (), {'__del__': lambda self: print('found')}); c = C(); c.itself = c"
    registered = "import atexit; atexit.register(print, 'registered')"
    done = run(f"import gc; gc.disable(); {knot}; {registered}")
    assert (done.stdout, done.stderr, done.returncode) == ("registered\n", "", 0)


def test_user_error_is_one_line_and_2() -> None:
    done = run(r"raise UserError('a.jsonl:3: no key\n  text')")
    assert (done.returncode, done.stderr) == (2, "error: a.jsonl:3: no key   text\n")


def test_processes_that_did_not_meet_have_a_code_of_their_own() -> None:
    done = run("from recipes.errors import RendezvousError; raise RendezvousError('rank 3 is missing')")
    assert (done.returncode, done.stderr) == (5, "error: rank 3 is missing\n")


def test_what_would_steer_a_terminal_is_shown() -> None:
    done = run(r"raise UserError('a\x1b[2Jb\x07 \u202e \u0915\u094d\u200d\u0937 \udc80')")
    assert done.stderr == "error: a\\x1b[2Jb\\x07 \\u202e \u0915\u094d\u200d\u0937 \\udc80\n"


def test_other_errors_keep_their_traceback() -> None:
    done = run("raise ValueError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: bug" in done.stderr


@pytest.mark.parametrize(
    ("chosen", "count"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_openmp_spins_shortly_unless_told_otherwise(
    chosen: dict[str, str], count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library itself says when torch loads it."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"OMP_DISPLAY_ENV": "VERBOSE"} | chosen).items():
        monkeypatch.setenv(name, value)
    assert f"GOMP_SPINCOUNT = '{count}'" in run("import torch").stderr


def test_a_path_that_cannot_be_followed_is_one_line(tmp_path: Path) -> None:
    """Wherever it is noticed: checking whether a file is there can fail, too."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / "file" / "inside", "Not a directory"),
    ):
        done = run("from pathlib import Path; Path(sys.argv[1]).stat()", str(path))
        assert (done.returncode, done.stderr) == (2, f"error: {path}: {why}\n")
    done = run("from pathlib import Path; Path(sys.argv[1]).stat()", str(tmp_path / "missing"))
    assert done.returncode == 1 and "Traceback" in done.stderr


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
        _, stderr = process.communicate(timeout=240)
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


@pytest.fixture(scope="module")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What LANG=en_US means on many clusters: a locale whose encoding is Latin-1."""
    directory = tmp_path_factory.mktemp("locale")
    if shutil.which("localedef") is None:
        pytest.skip("localedef makes the locale")
    made = subprocess.run(
        ["localedef", "--no-archive", "-i", "en_US", "-f", "ISO-8859-1", str(directory / "en_US")],
        capture_output=True,
        text=True,
        check=False,
    )
    if not (directory / "en_US").exists():
        pytest.skip(f"localedef: {made.stderr}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    return environment | {"LOCPATH": str(directory), "LC_ALL": "en_US"}


def test_hindi_under_a_latin1_locale(latin1: dict[str, str], tmp_path: Path) -> None:
    """Arguments, standard output, files opened without an encoding, and processes started from there."""
    body = (
        "print(sys.argv[1:] == ['\u0928\u0926\u0940'], sys.argv[1]);"
        "import subprocess; open(sys.argv[0] + '.txt', 'w').write(sys.argv[1]);"
        "subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv[1])', sys.argv[1]])"
    )
    script = tmp_path / "tool.py"
    script.write_text(PREFIX + f"def main():\n    {body}\nrun_tool(main)\n", encoding="utf-8")
    plain = subprocess.run(
        [sys.executable, "-c", "print(chr(0x928))"], env=latin1, capture_output=True, check=False
    )
    assert plain.returncode == 1, "the locale must be one that Python cannot print Hindi in"
    done = subprocess.run(
        [sys.executable, str(script), "\u0928\u0926\u0940"],
        env=latin1 | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(done.stdout.decode().split()) == ["True", "\u0928\u0926\u0940", "\u0928\u0926\u0940"]
    assert Path(f"{script}.txt").read_text(encoding="utf-8") == "\u0928\u0926\u0940"


def test_half_a_surrogate_pair_is_printed_as_an_escape() -> None:
    assert run("print('a\\udc80b')").stdout == "a\\udc80b\n"


def test_a_terminal_that_is_gone_does_not_end_a_run() -> None:
    """Whoever watched has closed the window: writing fails, the work goes on and its exit code counts."""
    main, other = os.openpty()
    code = (
        PREFIX
        + "from recipes.console import say, warn\n"
        + "def main():\n    sys.stdin.read(); say('a'); warn('b'); say('c'); return 3\nrun_tool(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=other, stderr=other, text=True
    ) as process:
        os.close(other)
        os.close(main)
        process.communicate(timeout=240)
    assert process.returncode == 3
