"""Too little memory, told as what to change. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recipes.errors import UserError


@contextmanager
def memory_for(what: str, fix: str) -> Iterator[None]:
    """For a block that fails where memory is scarce.

    Args:
        what: it does, or puts there.
        fix: what takes less.

    Raises:
        UserError: memory ran out; one line.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"no memory for {what}: {fix} ({reason_of(error)})") from None


def is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def reason_of(error: RuntimeError) -> str:
    """The first line, for a message."""
    return str(error).strip().partition("\n")[0]
