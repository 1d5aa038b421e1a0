"""Large tensors in memory on the CPU."""

from __future__ import annotations

import os

SWITCH = "THP_MEM_ALLOC_ENABLE"
"""Read by torch as it first allocates something."""


def ask_for_huge_pages() -> None:
    """Has torch ask Linux for huge pages for tensors of 2 MiB and more; a user's own choice stays.

    A decoding step reads all weights once. From pages of 4 KiB it does so a tenth to a third more slowly: the
    addresses of so many are looked up again and again.
    """
    os.environ.setdefault(SWITCH, "1")
