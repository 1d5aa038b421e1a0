"""What every command line tool does with the way its `main` ends."""

import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from recipes.console import printable
from recipes.errors import UserError

DONE = 0
USER_ERROR = 2
STOPPED_BY_SIGNAL = 3
"""Or by its time limit: saved, and to be started again."""
STOPPED_BY_GUARD = 4
INTERRUPTED = 128 + 2
BROKEN_PIPE = 128 + 13


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool's `main` and leave the process with the exit code that fits.

    `main` returns an exit code, or None for 0. A UserError becomes one line on stderr and exit code 2,
    Ctrl-C one line and 130. Any other exception is our mistake, not the user's, and keeps its traceback.
    """
    try:
        code = main() or 0
        sys.stdout.flush()  # here, so that a closed pipe is seen before the exit code is decided
    except UserError as error:
        print("error:", printable(" ".join(str(error).splitlines())), file=sys.stderr)
        code = USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # `tool | head`: the reader has seen enough. Any other broken pipe (a socket, say) is a failure.
        if not _silence_closed_stdout():
            raise
        code = BROKEN_PIPE
    sys.exit(code)


def _silence_closed_stdout() -> bool:
    """Whether nobody reads our stdout any more; if so, the interpreter's own flush at exit stays silent."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
