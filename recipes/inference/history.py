"""The lines that were typed in a session, kept for the next one."""

from __future__ import annotations

import contextlib
import locale
import os
import sys
from pathlib import Path

from recipes.checks import refuse
from recipes.console import warn

MOST_LINES = 1000


def check_history(file: str | None) -> None:
    """
    Raises:
        UserError: it cannot be written; found out before a model is loaded.
    """
    if file is not None and sys.stdin.isatty():
        try:
            _make(Path(file))
        except OSError as error:
            refuse("history_file", file, f"cannot be written ({error.strerror}); name another")


def _make(path: Path) -> None:
    """A file that others may not read is there before anything is in it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


class History:
    """Line editing, with the lines of earlier sessions. A typed one is kept at once."""

    def __init__(self, file: str | None) -> None:
        self._path: Path | None = None
        _edit_characters()
        try:
            import readline
        except ImportError:  # Python can be built without it; then lines are read plainly.
            return
        self._readline, path = readline, Path(file) if file else history_file()
        readline.set_history_length(MOST_LINES)
        try:
            _make(path)
            readline.read_history_file(path)
            self._path = path
        except OSError as error:  # A read-only file system is no reason not to complete anything.
            warn(f"{path}: typed lines are not kept ({error.strerror}); history_file=... names another place")
        self._length = readline.get_current_history_length()

    def keep(self) -> None:
        """Appends what readline has taken since the last call: not an empty line, nor the same one again."""
        if self._path is None:
            return
        before, self._length = self._length, self._readline.get_current_history_length()
        if self._length > before:
            with contextlib.suppress(OSError):  # The disk is full: the text matters more.
                self._readline.append_history_file(self._length - before, self._path)


def _edit_characters() -> None:
    """Has readline take text for UTF-8, which all of this program does, whatever the locale says.

    In the C locale it takes every byte beyond ASCII for a command: typed Hindi would disappear.
    """
    if locale.nl_langinfo(locale.CODESET).upper() not in ("UTF-8", "UTF8"):
        os.environ["LC_ALL"] = "C.UTF-8"  # It looks there itself, whenever it reads a line.


def history_file() -> Path:
    """In the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    home = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return home / "param-recipes" / "history"
