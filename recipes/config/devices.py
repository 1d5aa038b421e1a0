"""Devices that a run can be planned for, and whether this machine has one of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """One GPU, or a host's processors and memory, which its processes share."""

    name: str
    memory: int
    """Bytes."""
    is_cuda: bool
    peak_flops: float | None
    """Dense bf16 peak with fp32 sums, in FLOP/s; None: unknown."""
    cores: int = 0
    """Of a host."""
    bandwidth: float | None = None
    """Bytes per second between a GPU and its memory; None: unknown."""


MIB = 2**20
# Under CUDA's names, which are those of SXM parts: PCIe and NVL variants are slower. Memory as nvidia-smi
# shows it, peaks (without sparsity) and bandwidths from NVIDIA's data sheets.
GPUS = {
    "h200": Device("NVIDIA H200", 143_771 * MIB, True, 989e12, bandwidth=4.8e12),
    "h100": Device("NVIDIA H100 80GB HBM3", 81_559 * MIB, True, 989e12, bandwidth=3.35e12),
    "a100_80gb": Device("NVIDIA A100-SXM4-80GB", 81_920 * MIB, True, 312e12, bandwidth=2.039e12),
    "a100_40gb": Device("NVIDIA A100-SXM4-40GB", 40_960 * MIB, True, 312e12, bandwidth=1.555e12),
    "l40s": Device("NVIDIA L40S", 46_068 * MIB, True, 362e12, bandwidth=864e9),
    "rtx4090": Device("NVIDIA GeForce RTX 4090", 24_564 * MIB, True, 165e12, bandwidth=1.008e12),
    "rtx3090": Device("NVIDIA GeForce RTX 3090", 24_576 * MIB, True, 71e12, bandwidth=936e9),
}
PEAK_FLOPS = {gpu.name: gpu.peak_flops for gpu in GPUS.values()}
BANDWIDTH = {gpu.name: gpu.bandwidth for gpu in GPUS.values()}
DEVICES = ("cpu", *GPUS)
"""What plan.device can be."""


def has_gpu() -> bool:
    """Whether there is an NVIDIA driver, so that torch, which takes seconds to import, is worth asking."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
