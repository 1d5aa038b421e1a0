"""Whether a device runs this package's Triton kernels."""

from __future__ import annotations

import importlib.util

import torch

LEAST_CAPABILITY = (8, 0)
"""Triton is made for Ampere and later. Before that its products would not use the tensor cores."""


def has_triton(device: torch.device) -> bool:
    """A GPU that Triton is made for, with Triton: torch brings none for the CPU."""
    return (
        device.type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
    )
