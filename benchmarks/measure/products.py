"""A decoding step's products on a GPU: this project's kernels against torch's, with cold caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure.bandwidth import memory_bandwidth
from benchmarks.records import record
from recipes.inference.decode.weights import MLP, Norm, Weights

TRIES = 9
FLUSHED_BYTES = 256 << 20
"""More than a GPU's cache holds: a step finds none of its weights there."""
HEAD_START_CYCLES = 20_000_000
"""The GPU waits some milliseconds, so that everything is queued before it is timed: Python takes longer."""


@torch.no_grad()
def measure_products(weights: Weights, rows: int, json: Path | None) -> None:
    """Prints a line for each kind of product in the first layer, and the head's."""
    from recipes.inference.decode.product_kernel import SILU, fused_product

    layer = weights.layers[0]
    norm, mlp, head = layer.input_norm, layer.mlp, weights.head
    if not isinstance(mlp, MLP) or mlp.first.bias is not None or norm.is_layer_norm or not mlp.gated:
        return  # Other layers have other kernels.
    hidden = torch.randn(rows, norm.width, device=weights.device, dtype=weights.dtype)
    heads = torch.randn(rows, layer.output.weight.shape[1], device=weights.device, dtype=weights.dtype)
    inner = torch.randn(rows, mlp.second.weight.shape[1], device=weights.device, dtype=weights.dtype)

    def normed(weight: Tensor, by: Norm, gate: int = 0) -> Callable[[], Tensor]:
        return lambda: fused_product(hidden, weight, norm=True, gain=by.gain, eps=by.eps, gate=gate)

    def summed(values: Tensor, weight: Tensor) -> Callable[[], Tensor]:
        return lambda: fused_product(values, weight, residual=hidden)

    kinds = {
        "qkv": (normed(layer.qkv.weight, norm), lambda: layer.qkv(norm(hidden)), layer.qkv.weight),
        "output": (
            summed(heads, layer.output.weight),
            lambda: hidden + layer.output(heads),
            layer.output.weight,
        ),
        "fc1": (
            normed(mlp.first.weight, layer.mlp_norm, SILU),
            lambda: mlp.activated(mlp.first(layer.mlp_norm(hidden))),
            mlp.first.weight,
        ),
        "fc2": (summed(inner, mlp.second.weight), lambda: hidden + mlp.second(inner), mlp.second.weight),
        "head": (normed(head, weights.final_norm), lambda: weights.final_norm(hidden) @ head.t(), head),
    }
    bandwidth = memory_bandwidth()
    for kind, (ours, torchs, weight) in kinds.items():
        times = [_microseconds(way) for way in (ours, torchs)]
        percent = [100 * weight.nbytes / bandwidth / (1e-6 * time) if bandwidth else None for time in times]
        shares = " and ".join(f"{share:.0f} %" for share in percent if share is not None)
        print(
            f"  {kind:<8}{rows:>3} rows  kernel {times[0]:8.1f} us  torch {times[1]:8.1f} us"
            + (f"  {shares} of the bandwidth" if shares else ""),
            flush=True,
        )
        record(
            json,
            what=f"product {kind}",
            rows=rows,
            kernel_us=times[0],
            torch_us=times[1],
            kernel_bandwidth_percent=percent[0],
            torch_bandwidth_percent=percent[1],
        )


def _microseconds(way: Callable[[], Tensor]) -> float:
    """On the device; the median."""
    way()  # Compiled, and its memory is there.
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(TRIES)
    ]
    torch.cuda._sleep(HEAD_START_CYCLES)
    for start, end in events:
        flushed.zero_()
        start.record()
        way()
        end.record()
    torch.cuda.synchronize()
    return 1000 * sorted(start.elapsed_time(end) for start, end in events)[TRIES // 2]
