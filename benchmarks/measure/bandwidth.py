"""What GPUs can do at most, from NVIDIA's data sheets."""

from __future__ import annotations

import torch

# Bytes per second of SXM parts, by exact name, as in recipes/config/devices.py (FLOP/s).
BANDWIDTH = {
    "NVIDIA H200": 4.8e12,
    "NVIDIA H100 80GB HBM3": 3.35e12,
    "NVIDIA A100-SXM4-40GB": 1.555e12,
    "NVIDIA A100-SXM4-80GB": 2.039e12,
}


def memory_bandwidth() -> float | None:
    """Bytes per second between this process's GPU and its memory; None if unknown."""
    return BANDWIDTH.get(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
