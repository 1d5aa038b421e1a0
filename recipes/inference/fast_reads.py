"""Settings of the libraries under which the CPU reads weights fast. A user's own choice of them stays."""

from __future__ import annotations

import os
from pathlib import Path

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Read by torch as it first allocates something."""
KERNELS = "OPENBLAS_CORETYPE"
"""Read by numpy's OpenBLAS as it is loaded."""
CPU_FLAGS = Path("/proc/cpuinfo")


def prepare_for_fast_reads() -> None:
    """Before numpy and torch are imported.

    A decoding step reads all weights once. From pages of 4 KiB it does so a tenth to a third more slowly: the
    addresses of so many are looked up again and again. So torch asks Linux for huge pages for large tensors.
    OpenBLAS's dot products for AVX-512 read at two thirds of the speed of those for AVX2, which every
    processor with AVX-512 has too.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    if _has_avx512():
        os.environ.setdefault(KERNELS, "Haswell")


def _has_avx512() -> bool:
    try:
        with CPU_FLAGS.open() as flags:
            return " avx512f " in flags.read(1 << 13)  # The first processor's, of perhaps hundreds.
    except OSError:
        return False
