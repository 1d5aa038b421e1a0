"""How much shared memory one program of a kernel may have: less than half as much on a desktop's card."""

from __future__ import annotations

from functools import cache

import torch

HOPPER = 227 * 1024
SPARE = 1024
"""What the compiler takes beside the blocks that a kernel's loop has on their way."""


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes: 99 KiB on RTX 30, 40 and 50, 163 on an A100, 227 on H100 and B200, less what is spare.

    Triton refuses to launch a kernel that asks for more. Its interpreter on the CPU knows no limit.
    """
    if device.type == "cpu":
        return HOPPER - SPARE
    from triton.runtime import driver

    # Where Triton looks, too: a kernel is launched on the current device.
    properties = driver.active.utils.get_device_properties(driver.active.get_current_device())
    return int(properties["max_shared_mem"]) - SPARE
