"""The rotation of queries and keys as they leave their projection, as Triton kernels. Imported on GPUs alone.

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
    _launch(_rotate, mixed, (query, key, value), tables, heads)
    return query, key, value


def gradient_on_gpu(query: Tensor, key: Tensor, value: Tensor, tables: Tensor) -> Tensor:
    """The gradient ``[s, b, groups, heads * d]`` from those of queries, keys and values, in any layout."""
    parts = [part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value)]
    length, batch, groups, width = key.shape
    heads = query.shape[2] // groups + 2
    mixed = query.new_empty(length, batch, groups, heads * width)
    _launch(_rotate_back, mixed, (parts[0], parts[1], parts[2]), tables, heads)
    return mixed


def _launch(
    kernel: triton.JITFunction,
    mixed: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    tables: Tensor,
    heads: int,
) -> None:
    length, batch, groups, _ = mixed.shape
    strides = [stride for part in parts for stride in part.stride()[:3]]
    width = tables.shape[-1]
    with torch.cuda.device(mixed.device):
        kernel[(length * batch,)](
            *(mixed, *parts, tables, tables.stride(0), batch, *strides),
            groups=groups,
            heads=heads,
            half=width // 2,
            block_heads=triton.next_power_of_2(groups * heads),
            num_warps=4,
        )


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _where(batch, groups: tl.constexpr, heads: tl.constexpr, half: tl.constexpr, block_heads: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of each head of the program's token: its group, its place in it, and where its first half begins."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, block_heads)[:, None]
    column = tl.arange(0, half)[None, :]
    group, place = head // heads, head % heads
    mixed = (token * groups * heads + head) * (2 * half) + column
    return token // batch, token % batch, head < groups * heads, group, place, mixed, column


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turns(tables, to_sines, position, is_value, half: tl.constexpr, column):  # type: ignore[no-untyped-def]
    """Cosine and sine of the head's channels; a value is not turned."""
    start = position * (2 * half) + column
    cos = tl.load(tables + start).to(tl.float32)
    sin = tl.load(tables + to_sines + start).to(tl.float32)
    return tl.where(is_value, 1.0, cos), tl.where(is_value, 0.0, sin)


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
):
    position, row, inside, group, place, source, column = _where(batch, groups, heads, half, block_heads)
    cos, sin = _turns(tables, to_sines, position, place == heads - 1, half, column)
    low = tl.load(mixed + source, inside, other=0.0).to(tl.float32)
    high = tl.load(mixed + source + half, inside, other=0.0).to(tl.float32)
    turned_low = (low * cos - high * sin).to(mixed.dtype.element_ty)
    turned_high = (high * cos + low * sin).to(mixed.dtype.element_ty)
    is_query = inside & (place < heads - 2)
    to = query + position * query_s + row * query_b + (group * (heads - 2) + place) * query_h + column
    tl.store(to, turned_low, is_query)
    tl.store(to + half, turned_high, is_query)
    is_key = inside & (place == heads - 2)
    to = key + position * key_s + row * key_b + group * key_h + column
    tl.store(to, turned_low, is_key)
    tl.store(to + half, turned_high, is_key)
    is_value = inside & (place == heads - 1)
    to = value + position * value_s + row * value_b + group * value_h + column
    tl.store(to, turned_low, is_value)
    tl.store(to + half, turned_high, is_value)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rotate_back(  # type: ignore[no-untyped-def]
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
):
    position, row, inside, group, place, target, column = _where(batch, groups, heads, half, block_heads)
    cos, sin = _turns(tables, to_sines, position, place == heads - 1, half, column)
    # Each head reads from one of the three: what the others are asked for is masked, and costs nothing.
    is_query = inside & (place < heads - 2)
    at = query + position * query_s + row * query_b + (group * (heads - 2) + place) * query_h + column
    low = tl.load(at, is_query, other=0.0).to(tl.float32)
    high = tl.load(at + half, is_query, other=0.0).to(tl.float32)
    is_key = inside & (place == heads - 2)
    at = key + position * key_s + row * key_b + group * key_h + column
    low += tl.load(at, is_key, other=0.0).to(tl.float32)
    high += tl.load(at + half, is_key, other=0.0).to(tl.float32)
    is_value = inside & (place == heads - 1)
    at = value + position * value_s + row * value_b + group * value_h + column
    low += tl.load(at, is_value, other=0.0).to(tl.float32)
    high += tl.load(at + half, is_value, other=0.0).to(tl.float32)
    tl.store(mixed + target, (low * cos + high * sin).to(mixed.dtype.element_ty), inside)
    tl.store(mixed + target + half, (high * cos - low * sin).to(mixed.dtype.element_ty), inside)
