"""Attention of one new token per row on a static cache, as Triton kernels. Imported on GPUs alone.

Rows have lengths of their own, which the host need not know: a program ends where its row does. Long caches
are cut into parts that are read at the same time and then combined (Dao et al. 2023, Flash-Decoding).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.inference.decode.early_start import prefetch, starts_early, wait_for_earlier
from recipes.inference.decode.shared_memory import shared_memory

PART = 256
"""Tokens that one program reads."""
BLOCK, BLOCK_BYTES = 128, 32768
"""Tokens that it reads at once, and how many bytes of keys that may be; two blocks are on their way."""

COMBINED = 2048
"""Numbers of the parts in one warp, 64 a thread: those of 32,768 tokens are too many for one warp."""


def attend(
    qkv: Tensor,
    positions: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    rotation: tuple[Tensor, Tensor] | None,
    norms: tuple[Tensor | None, Tensor | None] | None,
    eps: float,
    value_embedding: tuple[Tensor, Tensor, Tensor] | None = None,
    scale: float,
    longest: int,
) -> Tensor:
    """softmax(scale q k^T) v over each row's tokens, of which none has more than ``longest``.

    Norms and rotates queries and keys, and puts the new key and value into the cache.

    Args:
        qkv: ``[parts, b, groups * (per group + 2) * d]``, contiguous: a group's queries, its key, its value,
            each the sum of its parts.
        positions: ``[b]``, of the new tokens; written two kernels before or earlier, as what is in the cache.
        keys, values: ``[slots, groups, capacity, d]``; position p goes to p % capacity, so that the last
            ``capacity`` tokens are kept.
        rotation: cosines and signed sines ``[positions, r]`` in fp32.
        norms: the gains ``[d]`` of the RMSNorms of queries and keys, None: without gain.
        value_embedding: tokens ``[b]``, their table ``[V, groups * d]`` and gates ``[b, groups]`` before the
            sigmoid.

    Returns:
        ``[b, groups * per group * d]``.
    """
    batch = len(positions)
    _, groups, capacity, width = keys.shape
    per_group = qkv.shape[2] // (groups * width) - 2
    cosines, sines = rotation or (None, None)
    query_gain, key_gain = norms or (None, None)
    tokens, table, gates = value_embedding or (None, None, None)
    parts = triton.cdiv(min(longest, capacity), PART)
    out = torch.empty(batch, groups * per_group * width, dtype=keys.dtype, device=qkv.device)
    shape = (batch, groups, parts, per_group)
    sums = torch.empty(*shape, width, dtype=torch.float32, device=out.device) if parts > 1 else out
    stats = torch.empty(2, *shape, dtype=torch.float32, device=out.device) if parts > 1 else out
    block_width = max(16, triton.next_power_of_2(width))
    block_queries = max(16, triton.next_power_of_2(per_group))
    early = starts_early(out.device)
    _attend[(batch, groups, parts)](
        *(qkv, positions, cosines, sines, query_gain, key_gain, tokens, table, gates),
        *(keys, values, sums, stats, batch, groups, capacity, eps, scale, stats.numel() // 2),
        in_parts=len(qkv),
        per_group=per_group,
        width=width,
        block_queries=block_queries,
        block_width=block_width,
        rotated=0 if cosines is None else cosines.shape[1],
        norm=norms is not None,
        part=PART,
        block=_block(keys, block_queries, block_width),
        parts=parts,
        precision="ieee" if keys.dtype == torch.float32 else "tf32",
        early=early,
        piece=_piece(keys) if early else 0,
        num_warps=4,
        num_stages=3,
        launch_pdl=early,
    )
    if parts > 1:
        block_parts = triton.next_power_of_2(parts)
        _combine[(batch * groups, per_group)](
            *(sums, stats, out, stats.numel() // 2, parts),
            per_group=per_group,
            width=width,
            block_width=block_width,
            block_parts=block_parts,
            early=early,
            num_warps=max(1, min(16, block_parts * block_width // COMBINED)),
            launch_pdl=early,
        )
    return out


def _block(keys: Tensor, block_queries: int, block_width: int) -> int:
    """Tokens of which two blocks of keys and values fit into the shared memory, beside queries and shares."""
    token_bytes = block_width * keys.element_size()
    room = (shared_memory(keys.device) - 2 * block_queries * token_bytes) // 4
    most = max(16, min(BLOCK, min(BLOCK_BYTES, room) // token_bytes))
    return 1 << (most.bit_length() - 1)


def _piece(keys: Tensor) -> int:
    """How many bytes each of a program's 128 threads asks for ahead of time; 0: they do not come out even."""
    row = keys.shape[3] * keys.element_size()
    piece = PART * row // 128
    return 0 if row % 16 or piece % 16 or piece * 128 != PART * row else piece


@triton.jit(do_not_specialize=["batch"])  # type: ignore[untyped-decorator, unused-ignore]
def _attend(  # type: ignore[no-untyped-def] # noqa: ANN
    qkv,
    positions,
    cosines,
    sines,
    query_gain,
    key_gain,
    tokens,
    table,
    gates,
    keys,
    values,
    sums,
    stats,
    batch,
    groups,
    capacity,
    eps,
    scale,
    half_stats,
    in_parts: tl.constexpr,
    per_group: tl.constexpr,
    width: tl.constexpr,
    block_queries: tl.constexpr,
    block_width: tl.constexpr,
    rotated: tl.constexpr,
    norm: tl.constexpr,
    part: tl.constexpr,
    block: tl.constexpr,
    parts: tl.constexpr,
    precision: tl.constexpr,
    early: tl.constexpr,
    piece: tl.constexpr,
):
    row, group, number = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    head_of_row = row * groups + group
    query, channel = tl.arange(0, block_queries), tl.arange(0, block_width)
    is_channel = channel < width
    inside = (query[:, None] < per_group) & is_channel[None, :]
    half: tl.constexpr = rotated // 2
    turned = channel < rotated
    partner = tl.where(channel < half, channel + half, tl.where(turned, channel - half, channel))

    # The kernel before has only made qkv: what else is read here was there before it began.
    position = tl.load(positions + row)
    place = position % capacity
    first = number * part
    last = tl.minimum(first + part, tl.minimum(position, capacity))
    if piece > 0:
        row_bytes = width * (keys.dtype.element_ty.primitive_bitwidth // 8)
        start, ask = (head_of_row * capacity + first) * row_bytes, tl.arange(0, 128) * piece
        size = tl.maximum(tl.minimum((last - first) * row_bytes - ask, piece), 0).to(tl.int32)
        prefetch(keys.to(tl.int64) + start + ask, size)
        prefetch(values.to(tl.int64) + start + ask, size)
    cosine = tl.full((block_width,), 1.0, tl.float32)
    sine = tl.zeros((block_width,), tl.float32)
    if rotated > 0:
        cosine = tl.load(cosines + position * rotated + channel, mask=turned, other=1.0)
        sine = tl.load(sines + position * rotated + channel, mask=turned, other=0.0)
    if early:
        wait_for_earlier()

    source = qkv + head_of_row * (per_group + 2) * width
    part_size = batch.to(tl.int64) * groups * (per_group + 2) * width
    q, turned_q = _sums(
        source + query[:, None] * width, channel[None, :], partner[None, :], part_size, inside, in_parts
    )
    k, turned_k = _sums(source + per_group * width, channel, partner, part_size, is_channel, in_parts)
    v, _ = _sums(source + (per_group + 1) * width, channel, channel, part_size, is_channel, in_parts)
    if norm:
        factor = tl.rsqrt(tl.sum(q * q, axis=1) / width + eps)[:, None]
        q, turned_q = q * factor, turned_q * factor
        factor = tl.rsqrt(tl.sum(k * k, axis=0) / width + eps)
        k, turned_k = k * factor, turned_k * factor
        if query_gain is not None:
            q *= tl.load(query_gain + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
            turned_q *= tl.load(query_gain + partner, mask=is_channel, other=0.0).to(tl.float32)[None, :]
        if key_gain is not None:
            k *= tl.load(key_gain + channel, mask=is_channel, other=0.0).to(tl.float32)
            turned_k *= tl.load(key_gain + partner, mask=is_channel, other=0.0).to(tl.float32)
    if rotated > 0:
        q = q * cosine[None, :] + turned_q * sine[None, :]
        k = k * cosine + turned_k * sine
    if table is not None:
        entry = table + (tl.load(tokens + row) * groups + group) * width + channel
        gate = tl.load(gates + head_of_row).to(tl.float32)
        v += 2.0 * tl.sigmoid(gate) * tl.load(entry, mask=is_channel, other=0.0).to(tl.float32)
    q, k, v = q.to(keys.dtype.element_ty), k.to(keys.dtype.element_ty), v.to(values.dtype.element_ty)

    # The first program has the new token, and keeps it; the cached ones follow.
    is_first = number == 0
    cached = (head_of_row * capacity + place) * width + channel
    tl.store(keys + cached, k, mask=is_channel & is_first)
    tl.store(values + cached, v, mask=is_channel & is_first)
    score = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], axis=1) * scale
    largest = tl.where(is_first, score, float("-inf"))
    total = tl.where(is_first, tl.full((block_queries,), 1.0, tl.float32), 0.0)
    mixed = tl.where(is_first, tl.broadcast_to(v.to(tl.float32)[None, :], (block_queries, block_width)), 0.0)
    for start in range(first, last, block):
        token = start + tl.arange(0, block)
        # In a full ring the new token has taken the place of one that is not seen any more.
        is_token = (token < last) & (token != place)
        where = (head_of_row * capacity + token[:, None]) * width + channel[None, :]
        seen = is_token[:, None] & is_channel[None, :]
        old_keys = tl.load(keys + where, mask=seen, other=0.0)
        old_values = tl.load(values + where, mask=seen, other=0.0)
        scores = tl.dot(q, tl.trans(old_keys), input_precision=precision) * scale
        scores = tl.where(is_token[None, :], scores, float("-inf"))
        largest_now = tl.maximum(largest, tl.max(scores, axis=1))
        # Nothing seen so far: differences of infinities would be no numbers.
        base = tl.where(largest_now == float("-inf"), 0.0, largest_now)
        shrink = tl.exp(largest - base)
        shares = tl.exp(scores - base[:, None])
        total = total * shrink + tl.sum(shares, axis=1)
        mixed *= shrink[:, None]
        mixed = tl.dot(shares.to(old_values.dtype), old_values, mixed, input_precision=precision)
        largest = largest_now
    if parts == 1:
        target = (head_of_row * per_group + query[:, None]) * width + channel[None, :]
        tl.store(sums + target, (mixed / total[:, None]).to(sums.dtype.element_ty), mask=inside)
    else:
        of_part = (head_of_row * parts + number) * per_group + query
        tl.store(sums + of_part[:, None] * width + channel[None, :], mixed, mask=inside)
        tl.store(stats + of_part, largest, mask=query < per_group)
        tl.store(stats + half_stats + of_part, total, mask=query < per_group)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sums(source, channel, partner, part_size, inside, parts: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN
    """The sums of all parts at a channel and at its partner in the rotation, in fp32."""
    own = tl.load(source + channel, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(source + partner, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(1, parts):
        own += tl.load(source + part * part_size + channel, mask=inside, other=0.0).to(tl.float32)
        other += tl.load(source + part * part_size + partner, mask=inside, other=0.0).to(tl.float32)
    return own, other


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
