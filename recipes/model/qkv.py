"""Queries, keys and values out of their joint projection, queries and keys rotated, in one pass each way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recipes.console import warn


def rotated_qkv(mixed: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits megatron-core's joint projection and rotates queries and keys (arXiv 2104.09864, eq. 34).

    Args:
        mixed: ``[s, b, groups, (queries per group + 2) * d]``: of each group its queries, its key, its value.
        tables: ``[2, s, d]``: cosines and sines, the same in both halves of the channels.

    Returns:
        ``[s, b, heads, d]`` and twice ``[s, b, groups, d]``.
    """
    query, key, value = _RotatedQKV.apply(mixed, tables)
    return query, key, value


@cache
def works_on_gpu(device: torch.device) -> bool:
    """Whether the kernels give there what torch does: Triton needs a C compiler, for one thing."""
    try:
        with torch.no_grad():
            agrees = kernels_agree(device, _rotated, _gradient)
    except Exception as error:  # Whatever it is, training can do without these kernels.
        warn(f"queries and keys are rotated without Triton: {str(error).strip().partition(chr(10))[0]}")
        return False
    if not agrees:
        warn("queries and keys are rotated without Triton, whose kernels are wrong here")
    return agrees


def kernels_agree(device: torch.device, rotated: Callable[..., Any], gradient: Callable[..., Any]) -> bool:
    """Whether these two give on the device what torch's operations give on the CPU.

    They may take a table's second half for granted, see :func:`rotated_qkv`.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 128), (4, 32), (2, 32), (2, 32)
    mixed, *gradients = (torch.randn(3, 2, *shape, generator=generator) for shape in shapes)
    angles = torch.randn(3, 16, generator=generator).repeat(1, 2)
    tables = torch.stack((angles.cos(), angles.sin()))
    expected = [*_rotated(mixed, tables), _gradient(gradients[0], gradients[1], gradients[2], tables)]
    mixed, tables, *gradients = (tensor.to(device) for tensor in (mixed, tables, *gradients))
    found = [*rotated(mixed, tables), gradient(*gradients, tables)]
    return all(torch.allclose(a.cpu(), b, rtol=0, atol=1e-4) for a, b in zip(found, expected, strict=True))


class _RotatedQKV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(tables)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.param_recipes.rotated_qkv(mixed.contiguous(), tables)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        (tables,) = ctx.saved_tensors
        return torch.ops.param_recipes.rotated_qkv_gradient(query, key, value, tables), None


@torch.library.custom_op("param_recipes::rotated_qkv", mutates_args=())
def _rotated(mixed: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if mixed.is_cuda:
        from recipes.model.qkv_kernel import rotated_on_gpu

        return rotated_on_gpu(mixed, tables)
    width = tables.shape[-1]
    heads = mixed.unflatten(-1, (-1, width))
    cos, sin = tables.to(mixed.dtype)[:, :, None, None, None]
    turned = heads * cos + torch.cat((-heads[..., width // 2 :], heads[..., : width // 2]), dim=-1) * sin
    query, key, value = turned[..., :-2, :].flatten(2, 3), turned[..., -2, :], heads[..., -1, :]
    return query.clone(), key.clone(), value.clone()


@_rotated.register_fake
def _(mixed: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    length, batch, groups, columns = mixed.shape
    width = tables.shape[-1]
    queries = groups * (columns // width - 2)
    query, key, value = (mixed.new_empty(length, batch, n, width) for n in (queries, groups, groups))
    return query, key, value


@torch.library.custom_op("param_recipes::rotated_qkv_gradient", mutates_args=())
def _gradient(query: Tensor, key: Tensor, value: Tensor, tables: Tensor) -> Tensor:
    if query.is_cuda:
        from recipes.model.qkv_kernel import gradient_on_gpu

        return gradient_on_gpu(query, key, value, tables)
    groups, width = key.shape[2:]
    turned = torch.cat((query.unflatten(2, (groups, -1)), key[..., None, :]), dim=3)
    cos, sin = tables.to(query.dtype)[:, :, None, None, None]
    halves = torch.cat((turned[..., width // 2 :], -turned[..., : width // 2]), dim=-1)
    return torch.cat((turned * cos + halves * sin, value[..., None, :]), dim=3).flatten(3)


@_gradient.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, tables: Tensor) -> Tensor:
    length, batch, groups, width = key.shape
    return query.new_empty(length, batch, groups, (query.shape[2] // groups + 2) * width)
