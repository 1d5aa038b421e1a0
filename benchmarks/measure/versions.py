"""Versions, and the kernels that a run would use."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from benchmarks.measure.bandwidth import memory_bandwidth
from benchmarks.records import record
from recipes.model.backend import have_transformer_engine
from recipes.model.products import can_add_in_fp32
from recipes.training.callbacks.metrics import known_peak_flops

PACKAGES = ("torch", "triton", "megatron-core", "nemo_toolkit", "lightning", "transformers", "lm_eval")


def versions() -> dict[str, str]:
    """Package or part, and its version."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {
            "device": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}",
            "memory": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return found


def kernels() -> dict[str, str]:
    """Part of a step, and what computes it here."""
    if have_transformer_engine():
        return {"layers": "Transformer Engine", "cross entropy": "this project's, compiled"}
    if not torch.cuda.is_available():
        return {"layers": "PyTorch on the CPU, through the stand-in for CUDA"}
    device = torch.zeros(1, device="cuda").device
    major, minor = torch.cuda.get_device_capability(device)
    three = major == 9 and importlib.util.find_spec("flash_attn_interface") is not None
    added = can_add_in_fp32(device, torch.bfloat16)
    peak, bandwidth = known_peak_flops(torch.cuda.get_device_name, None), memory_bandwidth()
    return {
        "capability": f"{major}.{minor}",
        "attention": "scaled_dot_product_attention",
        "windows": "FlashAttention-3 in half precision" if three else "FlexAttention, compiled",
        "weight gradients": "added in fp32 by the product" if added else "added after the product",
        "cross entropy": "this project's, compiled",
        "layers": "compiled unless they have experts",
        "peak": f"{peak / 1e12:.0f} TFLOP/s" if peak else "unknown: no MFU",
        "bandwidth": f"{bandwidth / 1e12:.2f} TB/s" if bandwidth else "unknown",
    }


def run(options: argparse.Namespace) -> None:
    """Prints both."""
    for title, found in (("versions", versions()), ("kernels", kernels())):
        print("\n".join(f"{name:<18}{value}" for name, value in found.items()))
        record(options.json, who=title, **found)
