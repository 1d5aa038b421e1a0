"""Causal attention written out: the whole matrix, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None
) -> Tensor:
    """softmax(scale q k^T + mask) v; the last query is at the last key, each sees ``window`` keys up to it.

    Args:
        query: ``[b, heads, s, d]``.
        key: ``[b, groups, s_k, d]``.
        value: ``[b, groups, s_k, d]``.

    Returns:
        ``[b, heads, s, d]`` in float64; differentiable.
    """
    query, key, value = query.double(), key.double(), value.double()
    per_group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(per_group, dim=1).mT * scale
    # How far the key lies behind the query.
    distance = torch.tensor(
        [[key.shape[2] - query.shape[2] + i - j for j in range(key.shape[2])] for i in range(query.shape[2])]
    )
    hidden = (distance < 0) | (distance >= (window or math.inf))
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value.repeat_interleave(per_group, dim=1)


def attention_inputs(
    samples: int, heads: int, groups: int, queries: int, keys: int, width: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and a gradient of the output in float64, strided as megatron-core's activations."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, heads), (keys, groups), (keys, groups), (queries, heads))
    query, key, value, gradient = (
        torch.randn(length, samples, count, width, generator=generator, dtype=torch.float64).permute(
            1, 2, 0, 3
        )
        for length, count in shapes
    )
    return query, key, value, gradient
