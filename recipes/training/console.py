"""What a running job prints: short lines on one rank."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """One line on standard output, at once."""
    print(message, flush=True)


def warn(message: str) -> None:
    """One line on standard error, at once."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``2h05m``, ``3m20s`` or ``45s``."""
    seconds = int(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    if seconds >= 60:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds}s"
