"""``python -m MODULE ...`` as a process of its own that begins with the engine imported.

For tests of what happens to a process. What a user's process imports and prints as it starts, only a real one
shows: :func:`tests.support.run_cases.start`.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.pool import process_context


class Forked:
    """The part of :class:`subprocess.Popen` that tests use. Its output is kept in files."""

    def __init__(
        self, module: str, arguments: list[str], before: Callable[[], None] | None = None, typed: str = ""
    ) -> None:
        """Starts it; ``before``, a function of a module, runs in it first; ``typed``: its standard input."""
        self._directory = tempfile.TemporaryDirectory()
        Path(self._directory.name, "in").write_text(typed, "utf-8")
        self._process = process_context().Process(
            target=_run_module, args=(module, arguments, self._directory.name, before)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        self._process.join()

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Waits for the end; standard output and error."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("forked process", timeout)
        return self.written()

    def written(self) -> tuple[str, str]:
        """Standard output and error so far."""
        files = (Path(self._directory.name, name) for name in ("out", "err"))
        out, err = (file.read_text("utf-8") if file.exists() else "" for file in files)
        return out, err


def run_forked(module: str, *arguments: object, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Waits for the end of ``python -m module arguments``, which reads ``typed``."""
    process = Forked(module, [*map(str, arguments)], typed=typed)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess([module, *arguments], process.returncode, out, err)


def _run_module(module: str, arguments: list[str], directory: str, before: Callable[[], None] | None) -> None:
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(Path(directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.dup2(os.open(Path(directory, "in"), os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - multiprocessing has closed it.
    if before is not None:
        before()
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)  # It is imported again as __main__.
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
