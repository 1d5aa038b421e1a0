"""How the C library handles memory that a step on the CPU frees."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 256 << 20
_LARGEST = 32 << 20
"""Larger pieces go back to the system at once; older releases of glibc accept no more than this."""


def keep_freed_memory() -> None:
    """Up to 256 MiB that were freed stay with the process.

    By default glibc gives them back after every step of a small model, and the system fills them with zeros
    page by page for the next one: a tenth of the step's time. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
