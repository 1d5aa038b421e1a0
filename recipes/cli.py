"""How every command line tool runs its `main` and exits."""

import atexit
import codecs
import errno
import gc
import io
import locale
import logging
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from recipes.console import note, printable, silence
from recipes.errors import RendezvousError, UserError

DONE = 0
USER_ERROR = UserError.exit_code
STOPPED_BY_SIGNAL = 3
"""Or by a time limit: the run is saved and can be started again."""
STOPPED_BY_GUARD = 4
NOT_MET = RendezvousError.exit_code
"""Processes that did not find each other: start again."""
NO_PROGRESS = 5
"""The watchdog's: a run in which no step ends any more. Start again, too."""
INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13
_OF_A_PATH = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR)
"""What only the path that a user gave can be the reason for, wherever it is noticed."""


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool's `main` and exit with the matching code.

    `main` returns an exit code, or None for 0. A UserError becomes one line on stderr and its exit code, a
    path that cannot be followed one line and 2, Ctrl-C one line and 130. Any other exception is our mistake,
    not the user's, and keeps its traceback.
    """
    _in_utf8()
    _wait_shortly()
    # At its end Python looks for unused cycles among all that torch and others have made: a second or more.
    atexit.register(gc.freeze)
    logging.raiseExceptions = False  # A closed pipe is no reason for a traceback per record.
    try:
        code = _exit_code(main)
        sys.stdout.flush()  # Here, so that a closed pipe is noticed before the exit code is set.
    except UserError as error:
        note(f"error: {printable(' '.join(str(error).splitlines()))}")
        code = error.exit_code
    except KeyboardInterrupt:
        note("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # `tool | head`: the reader has seen enough. Any other broken pipe (a socket, say) is a failure.
        if not _silence_closed_stdout():
            raise
        code = BROKEN_PIPE
    except OSError as error:
        if error.errno not in _OF_A_PATH or error.filename is None:
            raise
        note(f"error: {printable(f'{error.filename}: {error.strerror}')}")
        code = USER_ERROR
    sys.exit(code)


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or DONE
    except SystemExit as end:  # argparse and Hydra leave so after --help.
        if isinstance(end.code, str):
            raise
        return end.code or DONE


def _silence_closed_stdout() -> bool:
    """Whether our stdout has no reader any more; if so, silences the interpreter's own flush at exit."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    silence(sys.stdout)
    return True


def _wait_shortly() -> None:
    """Lets OpenMP's threads sleep sooner when they wait for each other.

    GNU OpenMP, which PyTorch brings, spins for milliseconds at the end of every parallel loop. Where other
    processes want the cores, the thread that is waited for does not run meanwhile, and a step takes ten times
    as long. It reads this once, when torch is imported; what the user has chosen stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _in_utf8() -> None:
    """Restarts this process in Python's UTF-8 mode if the locale has another encoding.

    Under LANG=en_US, which is Latin-1 on many clusters, a Hindi argument would be misread, as would files
    that libraries open without naming an encoding, and printing would raise. The mode can only be chosen at
    the start; child processes inherit it.
    """
    if not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):  # Half a surrogate pair is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
