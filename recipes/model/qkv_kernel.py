"""Queries and keys rotated as they leave their projection: a Triton kernel. Imported on GPUs alone.

The projection writes groups of heads one after the other: queries, their key, their value. torch's compiler
gathers the gradient of that layout by computing every element as if it were a query's, a key's and a value's:
on an H200 six times what the memory needs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotated_on_gpu(mixed: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`recipes.model.qkv.rotated_qkv`; computed in fp32."""
    length, batch, groups, _ = mixed.shape
    width = tables.shape[-1]
    heads = mixed.shape[-1] // width
    counts = groups * (heads - 2), groups, groups
    query, key, value = (mixed.new_empty(length, batch, count, width) for count in counts)
    _launch(mixed, (query, key, value), tables, heads, back=False)
    return query, key, value


def gradient_on_gpu(query: Tensor, key: Tensor, value: Tensor, tables: Tensor) -> Tensor:
    """The gradient ``[s, b, groups, heads * d]`` from those of queries, keys and values, in any layout."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value)]
    length, batch, groups, width = key.shape
    heads = query.shape[2] // groups + 2
    mixed = query.new_empty(length, batch, groups, heads * width)
    _launch(mixed, (parts[0], parts[1], parts[2]), tables, heads, back=True)
    return mixed


def _launch(
    mixed: Tensor, parts: tuple[Tensor, Tensor, Tensor], tables: Tensor, heads: int, *, back: bool
) -> None:
    length, batch, groups, _ = mixed.shape
    strides = [stride for part in parts for stride in part.stride()[:3]]
    with torch.cuda.device(mixed.device):
        _rotate[(length * batch,)](
            *(mixed, *parts, tables, tables.stride(0), batch, *strides),
            groups=groups,
            heads=heads,
            half=tables.shape[-1] // 2,
            block_heads=triton.next_power_of_2(groups * heads),
            back=back,
            num_warps=4,
        )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate(  # type: ignore[no-untyped-def]
    mixed,
    query,
    key,
    value,
    tables,
    to_sines,
    batch,
    query_s,
    query_b,
    query_h,
    key_s,
    key_b,
    key_h,
    value_s,
    value_b,
    value_h,
    groups: tl.constexpr,
    heads: tl.constexpr,
    half: tl.constexpr,
    block_heads: tl.constexpr,
    back: tl.constexpr,
):
    """All heads of one token, from ``mixed`` to the three parts or ``back``, which turns the other way."""
    token = tl.program_id(0).to(tl.int64)
    position, row = token // batch, token % batch
    head = tl.arange(0, block_heads)[:, None]
    column = tl.arange(0, half)[None, :]
    group, place = head // heads, head % heads
    inside = head < groups * heads
    # Each head is in one of the three parts: what is masked in the others costs nothing.
    is_query, is_key, is_value = place < heads - 2, place == heads - 2, place == heads - 1
    of_query = query + position * query_s + row * query_b + (group * (heads - 2) + place) * query_h + column
    of_key = key + position * key_s + row * key_b + group * key_h + column
    of_value = value + position * value_s + row * value_b + group * value_h + column
    of_mixed = mixed + (token * groups * heads + head) * (2 * half) + column
    cos = tl.load(tables + position * (2 * half) + column).to(tl.float32)
    sin = tl.load(tables + to_sines + position * (2 * half) + column).to(tl.float32)
    cos, sin = tl.where(is_value, 1.0, cos), tl.where(is_value, 0.0, sin)
    if back:
        low = tl.load(of_query, inside & is_query, other=0.0).to(tl.float32)
        high = tl.load(of_query + half, inside & is_query, other=0.0).to(tl.float32)
        low += tl.load(of_key, inside & is_key, other=0.0).to(tl.float32)
        high += tl.load(of_key + half, inside & is_key, other=0.0).to(tl.float32)
        low += tl.load(of_value, inside & is_value, other=0.0).to(tl.float32)
        high += tl.load(of_value + half, inside & is_value, other=0.0).to(tl.float32)
        sin = -sin
    else:
        low = tl.load(of_mixed, inside, other=0.0).to(tl.float32)
        high = tl.load(of_mixed + half, inside, other=0.0).to(tl.float32)
    turned_low = (low * cos - high * sin).to(mixed.dtype.element_ty)
    turned_high = (high * cos + low * sin).to(mixed.dtype.element_ty)
    if back:
        tl.store(of_mixed, turned_low, inside)
        tl.store(of_mixed + half, turned_high, inside)
    else:
        tl.store(of_query, turned_low, inside & is_query)
        tl.store(of_query + half, turned_high, inside & is_query)
        tl.store(of_key, turned_low, inside & is_key)
        tl.store(of_key + half, turned_high, inside & is_key)
        tl.store(of_value, turned_low, inside & is_value)
        tl.store(of_value + half, turned_high, inside & is_value)
