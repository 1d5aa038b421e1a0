"""Causal attention written out: the whole matrix, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from recipes.model.causal import causal_attention


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None = None,
    starts: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + mask) v; the last query is at the last key, each sees ``window`` keys up to it.

    Args:
        query: ``[b, heads, s, d]``.
        key: ``[b, groups, s_k, d]``.
        value: ``[b, groups, s_k, d]``.
        starts: ``[b, s]``, the first key that a query may see.

    Returns:
        ``[b, heads, s, d]`` in float64; differentiable.
    """
    query, key, value = query.double(), key.double(), value.double()
    per_group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(per_group, dim=1).mT * scale
    # How far the key lies behind the query.
    queries, keys = (torch.arange(tensor.shape[2], device=tensor.device) for tensor in (query, key))
    distance = (queries + key.shape[2] - query.shape[2])[:, None] - keys
    hidden = (distance < 0) | (distance >= (window or math.inf))
    if starts is not None:
        hidden = (hidden | (keys < starts[:, :, None]))[:, None]
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


def document_starts(samples: int, length: int, mean: int, seed: int = 0) -> Tensor:
    """Where each position's document starts, ``[b, s]``: documents of about ``mean`` tokens, some of one."""
    generator = torch.Generator().manual_seed(seed)
    begins = torch.rand(samples, length, generator=generator) < 1 / mean
    begins[:, 0] = True
    return torch.where(begins, torch.arange(length), 0).cummax(1).values.int()


def with_gradients(
    attend: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor
) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.to(out.dtype))]


def assert_attends_as_dense(
    queries: int,
    keys: int,
    window: int | None,
    dtype: torch.dtype,
    tolerance: float,
    device: str,
    starts: Tensor | None = None,
) -> None:
    """Six heads in two groups, output and gradients, of the project's attention on the device."""
    *inputs, gradient = (tensor.to(device, dtype) for tensor in attention_inputs(2, 6, 2, queries, keys, 64))
    expected = with_gradients(
        lambda *tensors: dense_attention(*tensors, 0.125, window, starts), tuple(inputs), gradient
    )
    found = with_gradients(
        lambda *tensors: causal_attention(*tensors, scale=0.125, window=window, starts=starts),
        tuple(inputs),
        gradient,
    )
    for ours, dense in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), dense.double(), rtol=0, atol=tolerance)
