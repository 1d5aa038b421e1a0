"""Typed prompts: what goes on, what begins anew, what is kept, and what Ctrl-C ends."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.config.schema import InferenceConfig
from recipes.inference.complete import complete
from recipes.inference.history import MOST_LINES, history_file
from recipes.inference.text_model import load_text_model
from tests.support.forked import run_forked
from tests.support.nemo_files import MAIN
from tests.support.paths import ROOT
from tests.support.run_cases import environment, heed_hang_ups

MODEL = str(MAIN / "model.nemo")
COMMON = [
    *(f"gpt_model_file={MODEL}", "interactive=true"),
    *("inference.greedy=true", "num_threads=1", "precision=fp32"),
]
COMMAND = [sys.executable, "-m", "recipes.generate", *COMMON]
SHORT = "inference.tokens_to_generate=5"


def typed(lines: str) -> subprocess.CompletedProcess[str]:
    return run_forked("recipes.generate", *COMMON, SHORT, typed=lines)


def test_lines_go_on_until_a_reset() -> None:
    done = typed("भारत\nA\n/text\n/reset\nA\\\nB\n/nonsense\n")
    assert (done.returncode, done.stderr) == (0, "")
    model = load_text_model(MODEL, precision="fp32", num_threads=1)
    settings = InferenceConfig(greedy=True, tokens_to_generate=5)

    def written(prompt: str) -> str:
        (result,) = complete(model, [prompt], settings, batch_size=1, seed=1)
        return result.completion

    first = "भारत" + written("भारत")
    second = f"{first}\nA" + written(f"{first}\nA")
    shown = [first.removeprefix("भारत"), second.removeprefix(f"{first}\nA"), second, written("A\nB")]
    assert done.stdout == "\n".join([*shown, "/nonsense: no such command; /help lists them", ""])


def test_a_line_that_is_not_utf8_is_left_out() -> None:
    done = subprocess.run(
        [*COMMAND, SHORT], cwd=ROOT, env=environment(), input=b"\xff\nA\n/exit\n", capture_output=True
    )
    assert (done.returncode, done.stdout.decode()) == (0, typed("A\n").stdout)
    assert "that line is not UTF-8; it is left out" in done.stderr.decode()


def test_a_text_that_has_grown_too_long() -> None:
    done = typed("A " * 200 + "\n/reset\nA\n")
    assert done.returncode == 0 and "the model reads" in done.stdout.splitlines()[0]
    assert len(done.stdout.splitlines()) >= 2


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *settings: str, **variables: str) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *settings],
            cwd=ROOT,
            env=environment() | {"TERM": "dumb"} | variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=heed_hang_ups,
        )
        os.close(theirs)
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.ours], [], [], 1)[0]:
                self.shown += os.read(self.ours, 1 << 16).decode("utf-8", "replace")

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.ours, text.encode())

    def interrupt(self) -> None:
        """Until a new prompt shows: a signal between two waits of readline is seen with the next key."""
        deadline = time.monotonic() + 240
        while "\n> " not in self.shown:
            assert time.monotonic() < deadline, self.shown
            os.kill(self.process.pid, signal.SIGINT)
            if select.select([self.ours], [], [], 1)[0]:
                self.shown += os.read(self.ours, 1 << 16).decode("utf-8", "replace")

    def end(self) -> int:
        """Ctrl-D, again if such a signal has taken the first one's place."""
        deadline = time.monotonic() + 240
        while self.process.poll() is None and time.monotonic() < deadline:
            self.type("\x04")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        os.close(self.ours)
        assert self.process.returncode is not None
        return self.process.returncode


def test_history_is_ones_own(tmp_path: Path) -> None:
    """And comes back in the next session; nobody else can read it."""
    kept = tmp_path / "state" / "param-recipes" / "history"
    terminal = Terminal(SHORT, XDG_STATE_HOME=str(tmp_path / "state"))
    terminal.wait_for("> ")
    terminal.type("secret line\n")
    terminal.wait_for("\n> ")
    assert terminal.end() == 0
    assert kept.read_text("utf-8").splitlines() == ["secret line"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    terminal = Terminal(SHORT, f"history_file={kept}", XDG_STATE_HOME=str(tmp_path / "other"))
    terminal.wait_for("> ")
    terminal.type("\x10\n")  # Ctrl-P: the line before.
    terminal.wait_for("secret line")
    terminal.wait_for("\n> ")
    assert terminal.end() == 0 and not (tmp_path / "other").exists()


def test_lines_are_kept_however_the_session_ends(tmp_path: Path) -> None:
    """Beside those of another session, of which none is lost."""
    kept = tmp_path / "history"
    kept.write_text("".join(f"{number}\n" for number in range(MOST_LINES)))
    first, second = (Terminal(SHORT, f"history_file={kept}") for _ in range(2))
    for terminal, line in ((first, "one"), (second, "two"), (first, "three")):
        terminal.wait_for("> ")
        terminal.type(f"{line}\n")
        terminal.wait_for("\n> ")
    for terminal in (first, second):
        terminal.process.send_signal(signal.SIGHUP)
        terminal.process.wait(240)
        os.close(terminal.ours)
    lines = kept.read_text("utf-8").splitlines()
    assert lines[-3:] == ["one", "two", "three"] and len(lines) == MOST_LINES
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_history_that_cannot_be_kept(tmp_path: Path) -> None:
    """By default that is said and the session goes on; a file that is asked for is refused at once."""
    (tmp_path / "file").write_text("")
    terminal = Terminal(SHORT, XDG_STATE_HOME=str(tmp_path / "file"))
    terminal.wait_for(
        "/file/param-recipes/history: typed lines are not kept (Not a directory); history_file="
    )
    terminal.wait_for("> ")
    terminal.type("A\n")
    terminal.wait_for("\n> ")
    assert terminal.end() == 0
    asked = tmp_path / "file" / "x" / "history"
    terminal = Terminal(SHORT, f"history_file={asked}")
    terminal.wait_for(f"error: history_file={asked}: cannot be written (Not a directory); name another")
    assert terminal.process.wait(240) == 2
    os.close(terminal.ours)


def test_ctrl_c_ends_the_completion_not_the_session(tmp_path: Path) -> None:
    terminal = Terminal(
        *("inference.tokens_to_generate=100", "inference.end_strings=[never]"),
        *(f"history_file={tmp_path / 'history'}", "inference.logit_bias={2: -100}"),
    )
    terminal.wait_for("> ")
    terminal.type("A")
    terminal.wait_for("A")
    terminal.interrupt()  # At the prompt: the line is dropped.
    terminal.type("B\n")
    terminal.wait_for("\n")
    time.sleep(0.1)
    terminal.interrupt()
    assert terminal.process.poll() is None
    assert terminal.end() == 0


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_hindi_is_edited_by_characters(locale: str, tmp_path: Path) -> None:
    """Whatever the locale: back over a letter and one with a virama, and into the middle of the line."""
    kept = tmp_path / "history"
    terminal = Terminal(SHORT, f"history_file={kept}", LC_ALL=locale)
    terminal.wait_for("> ")
    terminal.type("अनीताक्ष" + "\x7f" * 2 + " है" + "\x02" * 2 + " कहाँ\n")
    terminal.wait_for("\n> ")
    assert terminal.end() == 0
    assert kept.read_text("utf-8") == "अनीता कहाँ है\n"


def test_where_history_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    for state in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert history_file() == Path("/home/x/.local/state/param-recipes/history")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert history_file() == Path("/state/param-recipes/history")
