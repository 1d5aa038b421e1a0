"""Time over that of full causal attention, for windows, separate documents and chunks of a sequence."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():
    cpu_stand_in.install()

from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from recipes.model import causal
from recipes.model.causal import causal_attention
from recipes.model.windows import visible

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

# name: samples, heads, groups, width, length, window
WINDOWS = {
    "nano_hindi_25m": (2, 6, 2, 64, 1024, 512),
    "gemma3_270m": (2, 4, 1, 256, 1024, 512),
    "short window": (2, 6, 2, 64, 1024, 128),
    "s 2048": (2, 6, 2, 64, 2048, 512),
    "s 8192": (1, 6, 2, 64, 8192, 512),
}
# name: samples, heads, groups, width, queries, keys
CHUNKS = {
    "s 2048, cp 2, chunk 2": (2, 6, 2, 64, 512, 1024),
    "s 2048, cp 2, chunk 4": (2, 6, 2, 64, 512, 2048),
    "s 8192, cp 2, chunk 4": (1, 6, 2, 64, 2048, 8192),
}
# name: samples, heads, groups, width, length, mean length of documents
DOCUMENTS = {
    "quick start": (8, 4, 2, 32, 128, 30),
    "s 1024, documents of 100": (4, 8, 2, 64, 1024, 100),
    "s 2048, documents of 30": (2, 8, 2, 64, 2048, 30),
    "s 2048, documents of 400": (2, 8, 2, 64, 2048, 400),
    "Param-1, documents of 700": (1, 16, 8, 128, 2048, 700),
}
BLOCKS = (32, 64, 128, 256)


def sdpa(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
    """Grouped SDPA, scaled by 1 / sqrt(d)."""
    return scaled_dot_product_attention(
        query, key, value, enable_gqa=query.shape[1] != key.shape[1], **settings
    )


def window_candidates(length: int, window: int, scale: float, device: torch.device) -> dict[str, Attend]:
    """All candidates, the reference first."""
    mask = visible(length, length, window, device)

    def in_blocks_of(block: int) -> Attend:
        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            with patch.object(causal, "BLOCK", block):
                return causal_attention(query, key, value, scale=scale, window=window)

        return attend

    candidates: dict[str, Attend] = {
        "full causal": lambda q, k, v: sdpa(q, k, v, is_causal=True),
        "dense mask": lambda q, k, v: sdpa(q, k, v, attn_mask=mask),
        "ours": lambda q, k, v: causal_attention(q, k, v, scale=scale, window=window),
    }
    if device.type == "cpu":
        candidates |= {f"blocks of {block}": in_blocks_of(block) for block in BLOCKS}
    return candidates


def document_candidates(
    samples: int, length: int, mean: int, scale: float, device: torch.device
) -> dict[str, Attend]:
    """All candidates, the reference first; documents of ``mean / 2`` to ``1.5 mean`` tokens."""
    generator = torch.Generator().manual_seed(0)
    begins = torch.zeros(samples, length, dtype=torch.bool)
    for row in begins:
        lengths = torch.randint(max(1, mean // 2), mean * 3 // 2 + 1, (2 * length,), generator=generator)
        places = lengths.cumsum(0)
        row[places[places < length]] = True
    begins[:, 0] = True
    starts = torch.where(begins, torch.arange(length), 0).cummax(1).values.int().to(device)
    mask = visible(length, length, None, device) & (torch.arange(length, device=device) >= starts[..., None])
    return {
        "full causal": lambda q, k, v: sdpa(q, k, v, is_causal=True),
        "dense mask": lambda q, k, v: sdpa(q, k, v, attn_mask=mask[:, None]),
        "ours": lambda q, k, v: causal_attention(q, k, v, scale=scale, starts=starts),
    }


def chunk_candidates(queries: int, keys: int, scale: float, device: torch.device) -> dict[str, Attend]:
    """All candidates, the reference first: it has as many queries as keys, of which the last are used."""

    def square(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa(pad(query, (0, 0, keys - queries, 0)), key, value, is_causal=True)[:, :, keys - queries :]

    def in_blocks_of(block: int) -> Attend:
        mask = visible(block, keys, None, device)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            ends = range(keys - queries + block, keys + 1, block)
            parts = zip(query.split(block, dim=2), ends, strict=True)
            attended = [
                sdpa(part, key[:, :, :end], value[:, :, :end], attn_mask=mask[:, keys - end :])
                for part, end in parts
            ]
            return torch.cat(attended, dim=2)

        return attend

    return {
        "padded square": square,
        "ours": lambda q, k, v: causal_attention(q, k, v, scale=scale),
        **{f"blocks of {block}": in_blocks_of(block) for block in BLOCKS},
    }


def seconds(attend: Attend, inputs: list[Tensor], gradient: Tensor) -> float:
    """Forward and backward."""
    for tensor in inputs:
        tensor.grad = None
    _finish(gradient)
    started = time.perf_counter()
    attend(*inputs).backward(gradient)
    _finish(gradient)
    return time.perf_counter() - started


def _finish(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def compare(
    candidates: dict[str, Attend],
    shape: tuple[int, int, int, int],
    lengths: tuple[int, int],
    device: torch.device,
    turns: int,
) -> dict[str, float]:
    """Each candidate's best time in seconds, after a check that equivalent candidates agree."""
    samples, heads, groups, width = shape
    queries, keys = lengths
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def random(length: int, count: int) -> Tensor:
        # Strided like megatron-core's activations.
        return torch.randn(length, samples, count, width, device=device, dtype=dtype).permute(1, 2, 0, 3)

    inputs = [
        random(length, count).requires_grad_() for length, count in ((queries, heads), *[(keys, groups)] * 2)
    ]
    gradient = random(queries, heads)
    ours = candidates["ours"](*inputs)
    for name, attend in candidates.items():
        if name != "full causal":
            torch.testing.assert_close(
                attend(*inputs), ours, rtol=0, atol=2e-2 if dtype != torch.float32 else 1e-4
            )
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(turns):
        for name, attend in candidates.items():
            times[name].append(seconds(attend, inputs, gradient))
    return {name: min(taken) for name, taken in times.items()}


def show(name: str, best: dict[str, float]) -> None:
    """One line: the reference's time and all ratios to it."""
    (reference, base), *_ = best.items()
    ratios = "  ".join(f"{candidate} {taken / base:.2f}" for candidate, taken in best.items())
    print(f"{name} ({reference} {1000 * base:.1f} ms): {ratios}", flush=True)


def run(options: argparse.Namespace) -> None:
    """Measures all shapes."""
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print("Windows: time over that of full causal attention")
    for name, (*shape, length, window) in WINDOWS.items():
        candidates = window_candidates(length, window, shape[3] ** -0.5, device)
        show(name, compare(candidates, tuple(shape), (length, length), device, options.turns))  # type: ignore[arg-type]
    print("Separate documents: time over that of full causal attention")
    for name, (*shape, length, mean) in DOCUMENTS.items():
        candidates = document_candidates(shape[0], length, mean, shape[3] ** -0.5, device)
        show(name, compare(candidates, tuple(shape), (length, length), device, options.turns))  # type: ignore[arg-type]
    print("Chunks of a split sequence: time over that of a padded square")
    for name, (*shape, queries, keys) in CHUNKS.items():
        candidates = chunk_candidates(queries, keys, shape[3] ** -0.5, device)
        show(name, compare(candidates, tuple(shape), (queries, keys), device, options.turns))  # type: ignore[arg-type]
