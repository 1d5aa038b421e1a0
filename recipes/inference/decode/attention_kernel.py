"""Attention of one new token per row on a static cache, as Triton kernels. Imported on GPUs alone.

Rows have lengths of their own, which the host need not know: a program ends where its row does. Long caches
are cut into parts that are read at the same time and then combined (Dao et al. 2023, Flash-Decoding).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.inference.decode.early_start import starts_early, wait_for_earlier

PART = 256
"""Tokens that one program reads."""
BLOCK, BLOCK_BYTES = 64, 32768
"""Tokens that it reads at once, and how many bytes of keys that may be: several blocks are on their way."""


def place_heads(
    qkv: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    rotation: tuple[Tensor, Tensor] | None,
    norms: tuple[Tensor | None, Tensor | None] | None,
    eps: float,
    value_embedding: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Norms and rotates queries and keys, and puts keys and values into the cache.

    Args:
        qkv: ``[parts, b, groups * (per group + 2) * d]``, contiguous: a group's queries, its key, its value,
            each the sum of its parts.
        positions: ``[b]``.
        keys, values: ``[slots, groups, capacity, d]``; position p goes to p % capacity.
        rotation: cosines and signed sines ``[positions, r]`` in fp32.
        norms: the gains ``[d]`` of the RMSNorms of queries and keys, None: without gain.
        value_embedding: tokens ``[b]``, their table ``[V, groups * d]`` and gates ``[b, groups]`` before the
            sigmoid.

    Returns:
        Queries ``[b, groups, per group, d]`` in the cache's dtype.
    """
    batch = len(positions)
    _, groups, capacity, width = keys.shape
    per_group = qkv.shape[2] // (groups * width) - 2
    queries = torch.empty(batch, groups, per_group, width, dtype=keys.dtype, device=qkv.device)
    cosines, sines = rotation or (None, None)
    query_gain, key_gain = norms or (None, None)
    tokens, table, gates = value_embedding or (None, None, None)
    _place_heads[(batch, groups, per_group + 2)](
        *(qkv, positions, cosines, sines, query_gain, key_gain, tokens, table, gates),
        *(queries, keys, values, groups, capacity, eps, batch),
        parts=len(qkv),
        per_group=per_group,
        width=width,
        block=triton.next_power_of_2(width),
        rotated=0 if cosines is None else cosines.shape[1],
        norm=norms is not None,
        early=starts_early(qkv.device),
        num_warps=1,
        launch_pdl=starts_early(qkv.device),
    )
    return queries


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float, longest: int
) -> Tensor:
    """softmax(scale q k^T) v over each row's cached tokens, of which none has more than ``longest``.

    Args:
        queries: ``[b, groups, per group, d]``.
        keys, values: ``[slots, groups, capacity, d]``.
        positions: ``[b]``; the row has position + 1 tokens, of which the last ``capacity`` are kept.

    Returns:
        ``[b, groups * per group * d]``.
    """
    batch, groups, per_group, width = queries.shape
    capacity = keys.shape[2]
    parts = triton.cdiv(min(longest, capacity), PART)
    out = torch.empty(batch, groups * per_group * width, dtype=queries.dtype, device=queries.device)
    shape = (batch, groups, parts, per_group)
    sums = torch.empty(*shape, width, dtype=torch.float32, device=out.device) if parts > 1 else out
    stats = torch.empty(2, *shape, dtype=torch.float32, device=out.device) if parts > 1 else out
    block = max(16, triton.next_power_of_2(width))
    _attend[(batch, groups, parts)](
        *(queries, keys, values, positions, sums, stats, groups, capacity, scale, stats.numel() // 2),
        per_group=per_group,
        width=width,
        block_queries=max(16, triton.next_power_of_2(per_group)),
        block_width=block,
        part=PART,
        block=max(16, min(BLOCK, BLOCK_BYTES // (block * keys.element_size()))),
        parts=parts,
        precision="ieee" if queries.dtype == torch.float32 else "tf32",
        early=starts_early(queries.device),
        num_warps=4,
        num_stages=3,
        launch_pdl=starts_early(queries.device),
    )
    if parts > 1:
        _combine[(batch * groups, per_group)](
            *(sums, stats, out, stats.numel() // 2, parts),
            per_group=per_group,
            width=width,
            block_width=block,
            block_parts=triton.next_power_of_2(parts),
            early=starts_early(queries.device),
            num_warps=1,
            launch_pdl=starts_early(queries.device),
        )
    return out


@triton.jit(do_not_specialize=["batch"])  # type: ignore[untyped-decorator, unused-ignore]
def _place_heads(  # type: ignore[no-untyped-def] # noqa: ANN
    qkv,
    positions,
    cosines,
    sines,
    query_gain,
    key_gain,
    tokens,
    table,
    gates,
    queries,
    keys,
    values,
    groups,
    capacity,
    eps,
    batch,
    parts: tl.constexpr,
    per_group: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
    rotated: tl.constexpr,
    norm: tl.constexpr,
    early: tl.constexpr,
):
    if early:
        wait_for_earlier()
    row, group, head = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row)
    channel = tl.arange(0, block)
    inside = channel < width
    head_of_row = row * groups + group
    source = qkv + (head_of_row * (per_group + 2) + head) * width
    part_size = batch.to(tl.int64) * groups * (per_group + 2) * width
    cached = (head_of_row * capacity + position % capacity) * width + channel
    own = tl.zeros((block,), tl.float32)
    for part in tl.static_range(parts):
        own += tl.load(source + part * part_size + channel, mask=inside, other=0.0).to(tl.float32)
    if head <= per_group:
        turned = channel < rotated
        half: tl.constexpr = rotated // 2
        partner = tl.where(channel < half, channel + half, tl.where(turned, channel - half, channel))
        other = tl.zeros((block,), tl.float32)
        for part in tl.static_range(parts):
            other += tl.load(source + part * part_size + partner, mask=inside, other=0.0).to(tl.float32)
        if norm:
            factor = tl.rsqrt(tl.sum(own * own, axis=0) / width + eps)
            own *= factor
            other *= factor
            if head < per_group:
                if query_gain is not None:
                    own *= tl.load(query_gain + channel, mask=inside, other=0.0).to(tl.float32)
                    other *= tl.load(query_gain + partner, mask=inside, other=0.0).to(tl.float32)
            else:
                if key_gain is not None:
                    own *= tl.load(key_gain + channel, mask=inside, other=0.0).to(tl.float32)
                    other *= tl.load(key_gain + partner, mask=inside, other=0.0).to(tl.float32)
        if rotated > 0:
            cosine = tl.load(cosines + position * rotated + channel, mask=turned, other=1.0)
            sine = tl.load(sines + position * rotated + channel, mask=turned, other=0.0)
            own = own * cosine + other * sine
        if head < per_group:
            target = queries + (head_of_row * per_group + head) * width + channel
            tl.store(target, own.to(queries.dtype.element_ty), mask=inside)
        else:
            tl.store(keys + cached, own.to(keys.dtype.element_ty), mask=inside)
    else:
        if table is not None:
            token = tl.load(tokens + row)
            entry = table + (token * groups + group) * width + channel
            gate = tl.load(gates + head_of_row).to(tl.float32)
            own += 2.0 * tl.sigmoid(gate) * tl.load(entry, mask=inside, other=0.0).to(tl.float32)
        tl.store(values + cached, own.to(values.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def] # noqa: ANN
    queries,
    keys,
    values,
    positions,
    sums,
    stats,
    groups,
    capacity,
    scale,
    half,
    per_group: tl.constexpr,
    width: tl.constexpr,
    block_queries: tl.constexpr,
    block_width: tl.constexpr,
    part: tl.constexpr,
    block: tl.constexpr,
    parts: tl.constexpr,
    precision: tl.constexpr,
    early: tl.constexpr,
):
    if early:
        wait_for_earlier()
    row, group, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    length = tl.minimum(tl.load(positions + row) + 1, capacity)
    head_of_row = row * groups + group
    query, channel = tl.arange(0, block_queries), tl.arange(0, block_width)
    inside = channel[None, :] < width
    is_query = query[:, None] < per_group
    of_queries = (head_of_row * per_group + query[:, None]) * width + channel[None, :]
    q = tl.load(queries + of_queries, mask=is_query & inside, other=0.0)
    largest = tl.full((block_queries,), float("-inf"), tl.float32)
    total = tl.zeros((block_queries,), tl.float32)
    mixed = tl.zeros((block_queries, block_width), tl.float32)
    first = number * part
    last = tl.minimum(first + part, length)
    for start in range(first, last, block):
        token = start + tl.arange(0, block)
        is_token = token < last
        where = (head_of_row * capacity + token[:, None]) * width + channel[None, :]
        k = tl.load(keys + where, mask=is_token[:, None] & inside, other=0.0)
        v = tl.load(values + where, mask=is_token[:, None] & inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        scores = tl.where(is_token[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp(largest - larger)
        shares = tl.exp(scores - larger[:, None])
        total = total * shrink + tl.sum(shares, axis=1)
        mixed = tl.dot(shares.to(v.dtype), v, mixed * shrink[:, None], input_precision=precision)
        largest = larger
    if parts == 1:
        result = mixed / total[:, None]
        tl.store(sums + of_queries, result.to(sums.dtype.element_ty), mask=is_query & inside)
    else:
        of_part = (head_of_row * parts + number) * per_group + query
        target = of_part[:, None] * width + channel[None, :]
        tl.store(sums + target, mixed, mask=is_query & inside)
        tl.store(stats + of_part, largest, mask=query < per_group)
        tl.store(stats + half + of_part, total, mask=query < per_group)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _combine(  # type: ignore[no-untyped-def] # noqa: ANN
    sums,
    stats,
    out,
    half,
    parts,
    per_group: tl.constexpr,
    width: tl.constexpr,
    block_width: tl.constexpr,
    block_parts: tl.constexpr,
    early: tl.constexpr,
):
    if early:
        wait_for_earlier()
    head_of_row, query = tl.program_id(0).to(tl.int64), tl.program_id(1)
    number, channel = tl.arange(0, block_parts), tl.arange(0, block_width)
    is_part = number < parts
    inside = channel < width
    of_part = (head_of_row * parts + number) * per_group + query
    largest = tl.load(stats + of_part, mask=is_part, other=float("-inf"))
    total = tl.load(stats + half + of_part, mask=is_part, other=0.0)
    share = tl.exp(largest - tl.max(largest, axis=0))
    target = of_part[:, None] * width + channel[None, :]
    mixed = tl.load(sums + target, mask=is_part[:, None] & inside[None, :], other=0.0)
    result = tl.sum(mixed * share[:, None], axis=0) / tl.sum(total * share, axis=0)
    place = (head_of_row * per_group + query) * width + channel
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)
