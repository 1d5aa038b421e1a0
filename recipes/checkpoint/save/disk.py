"""Errors of the disk as one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.checkpoint.formats.safety import reason
from recipes.errors import UserError
from recipes.files import free_bytes, free_space

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
NOTHING_LEFT = "nothing was left behind, earlier checkpoints are untouched"
# What torch's zip writer says when a write failed, without the reason.
TORCH_REFUSALS = ("PytorchStreamWriter failed", "unexpected pos")


@contextmanager
def disk_errors(path: Path, advice: str) -> Iterator[None]:
    """Turns an error of the disk while ``path`` is written into a :class:`UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refusal = _refusal(error, path)
        if refusal is None:
            raise
        raise UserError(
            f"{path}: cannot be saved: {refusal} ({free_space(path.parent)}); {advice}"
        ) from error


def failure_of(action: Callable[[], None], path: Path, advice: str) -> UserError | None:
    """Calls ``action``, which writes ``path``; returns what went wrong, for all ranks to raise together."""
    try:
        with disk_errors(path, advice):
            action()
    except UserError as error:
        return error
    except Exception as error:
        failure = UserError(f"{path}: cannot be saved: {reason(error)}; {advice}")
        failure.__cause__ = error
        return failure
    return None


def _refusal(error: BaseException, path: Path) -> str | None:
    """The reason that the disk gave, if the error came from the disk."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in seen:
        for code in REFUSALS:
            if (isinstance(each, OSError) and each.errno == code) or os.strerror(code) in str(each):
                return os.strerror(code)
    if any(text in str(each) for each in seen for text in TORCH_REFUSALS):
        free = free_bytes(path.parent)  # The half-written file still takes its space.
        return os.strerror(errno.ENOSPC) if free is not None and free < 2**20 else "a write failed"
    return None
