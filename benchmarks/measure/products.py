"""A decoding step's products on a GPU: this project's kernels against torch's, with cold caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure.bandwidth import memory_bandwidth
from benchmarks.records import record
from recipes.inference.decode.weights import MLP, Linear, Weights

Way = Callable[[], object]

TRIES = 9
FLUSHED_BYTES = 256 << 20
"""More than a GPU's cache holds: a step finds none of its weights there."""
HEAD_START_CYCLES = 20_000_000
"""The GPU waits some milliseconds, so that everything is queued before it is timed: Python takes longer."""


@torch.no_grad()
def measure_products(weights: Weights, rows: int, json: Path | None) -> None:
    """Prints a line for each kind of product in the first layer, the head's, and the sum and norm between."""
    from recipes.inference.decode.norm_kernel import add_and_norm
    from recipes.inference.decode.product_kernel import SILU, product_parts, whole_product

    layer = weights.layers[0]
    norm, mlp, head = layer.input_norm, layer.mlp, weights.head
    if not isinstance(mlp, MLP) or mlp.first.bias is not None or norm.is_layer_norm or not mlp.gated:
        return  # Other layers have other kernels.
    hidden = torch.randn(rows, norm.width, device=weights.device, dtype=weights.dtype)
    heads = torch.randn(rows, layer.output.weight.shape[1], device=weights.device, dtype=weights.dtype)
    inner = torch.randn(rows, mlp.second.weight.shape[1], device=weights.device, dtype=weights.dtype)
    parts = product_parts(inner, mlp.second.weight)

    def parted(values: Tensor, linear: Linear) -> tuple[Way, Way, int]:
        return lambda: product_parts(values, linear.weight), lambda: linear(values), linear.weight.nbytes

    assert head is not None
    kinds: dict[str, tuple[Way, Way, int]] = {
        "qkv": parted(hidden, layer.qkv),
        "output": parted(heads, layer.output),
        "fc1": (
            lambda: whole_product(hidden, mlp.first.weight, SILU),
            lambda: mlp.activated(mlp.first(hidden)),
            mlp.first.weight.nbytes,
        ),
        "fc2": parted(inner, mlp.second),
        "norm": (
            lambda: add_and_norm(hidden, parts, None, norm),
            lambda: norm(hidden + parts.sum(0).to(hidden.dtype)),
            parts.nbytes + 3 * hidden.nbytes,
        ),
        "head": (lambda: whole_product(hidden, head), lambda: hidden @ head.t(), head.nbytes),
    }
    bandwidth = memory_bandwidth()
    for kind, (ours, torchs, size) in kinds.items():
        times = [_microseconds(way) for way in (ours, torchs)]
        percent = [100 * size / bandwidth / (1e-6 * time) if bandwidth else None for time in times]
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


def _microseconds(way: Way) -> float:
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
