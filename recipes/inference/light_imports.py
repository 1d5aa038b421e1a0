"""Importing megatron-core without what only its training logs use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("wandb", "tensorboard")
"""megatron-core imports them wherever they are installed, and goes on without them where they are not. They
take a quarter of the time in which it is imported."""


@contextmanager
def without_loggers() -> Iterator[None]:
    """While it is entered, the loggers cannot be imported, unless they have been before."""
    hidden = [name for name in LOGGERS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
