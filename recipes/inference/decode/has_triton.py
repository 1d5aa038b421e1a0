"""Whether a device runs this package's Triton kernels."""

from __future__ import annotations

import importlib.util

import torch


def has_triton(device: torch.device) -> bool:
    """A GPU, with Triton: torch brings none for the CPU."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None
