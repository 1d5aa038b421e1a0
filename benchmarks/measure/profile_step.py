"""Where a step's time goes: torch.profiler's kernels, summed by kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# The first pattern that is found in a kernel's name decides. On the CPU, operators take the place of kernels.
KINDS = (
    ("attention", r"flash|fmha|attention|cudnn.*sdpa|flex"),
    (
        "matrix products",
        r"gemm|nvjet|cutlass|xmma|cublas|splitk|aten::(add|b|ba|)mm\b|linear|add_weight_gradient",
    ),
    ("communication", r"nccl|c10d|gloo"),
    ("optimizer", r"adam|multi_tensor|foreach|l2norm"),
    ("cross entropy", r"put_gradient|triton_\w*(exp_sum|log_softmax|amax)|_exp_\w*sum|nll"),
    ("norms", r"rms_?norm|layer_?norm"),
    ("embeddings and indexing", r"embedding|index|gather|scatter|sort"),
    ("compiled pointwise", r"triton"),
    ("copies and fills", r"memcpy|memset|copy|fill|cat\b|contiguous"),
    ("other pointwise", r"elementwise|vectorized|aten::(mul|add|sub|div|silu|gelu|exp|sigmoid)"),
)


@dataclass(frozen=True)
class Row:
    name: str
    milliseconds: float
    calls: int


def profiled(step: Callable[[], object]) -> list[Row]:
    """One call's kernels (operators on the CPU) by their own time, the longest first."""
    on_gpu = torch.cuda.is_available()
    # Without the CPU's operators on a GPU: recording them slows the launches down.
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    rows = []
    for event in found.key_averages():
        if on_gpu:
            if event.device_type != DeviceType.CUDA:
                continue
            microseconds = event.self_device_time_total
        else:
            microseconds = event.self_cpu_time_total
        if microseconds > 0:
            rows.append(Row(event.key, microseconds / 1000, event.count))
    return sorted(rows, key=lambda row: -row.milliseconds)


def by_kind(rows: list[Row]) -> list[Row]:
    """Summed by kind of kernel, the longest first."""
    time: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for row in rows:
        kind = kind_of(row.name)
        time[kind] += row.milliseconds
        calls[kind] += row.calls
    found = [Row(kind, milliseconds, calls[kind]) for kind, milliseconds in time.items()]
    return sorted(found, key=lambda row: -row.milliseconds)


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def print_profile(rows: list[Row], longest: int = 25) -> None:
    """The table by kind, then the longest kernels."""
    total = sum(row.milliseconds for row in rows)
    for title, part in (("kind", by_kind(rows)), ("kernel", rows[:longest])):
        print(f"{title:<72}{'ms':>10}{'share':>9}{'calls':>8}")
        for row in part:
            share = 100 * row.milliseconds / total
            print(f"{row.name[:70]:<72}{row.milliseconds:10.2f}{share:7.1f} %{row.calls:8}")
