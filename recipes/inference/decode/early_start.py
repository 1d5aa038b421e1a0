"""Kernels that start while the one before them still runs: programmatic dependent launch, from Hopper on.

A step is hundreds of kernels of a few microseconds each, and one microsecond lies between two of them. Such
a kernel takes its place beside the last programs of the one before, asks there for what no kernel writes
(weights), and waits before it touches anything else. Each waits for the whole one before it, which itself has
waited: so all earlier results are there. Imported on GPUs alone.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl


@cache
def starts_early(device: torch.device) -> bool:
    """Whether the device can; a kernel that does not wait must not be launched so."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def wait_for_earlier():  # type: ignore[no-untyped-def]
    """Returns when the kernel before has ended; the kernel after may take its place from now on."""
    tl.extra.cuda.gdc_wait()
    tl.extra.cuda.gdc_launch_dependents()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def prefetch(start, size):  # type: ignore[no-untyped-def]
    """Asks for ``size`` bytes from each of the addresses on, both multiples of 16, to come to the cache.

    Nothing is asked for where the size is zero.
    """
    tl.inline_asm_elementwise(
        """{
        .reg .pred wanted;
        setp.ne.s32 wanted, $2, 0;
        @wanted cp.async.bulk.prefetch.L2.global [$1], $2;
        mov.u32 $0, 0;
        }""",
        "=r,l,r",
        [start.to(tl.int64), size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
