"""Causal attention whose queries are at the last keys, full or in a sliding window.

One function for training (as many queries as keys), decoding with a cache (few queries) and a chunk of a
sequence that is split over ranks. Windows and separate documents need no ``[s, s]`` mask.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from recipes.model.windows import documents_on_gpu, visible, windowed_attention_on_gpu

# Queries per block of windowed attention on the CPU. Time of forward and backward against full causal
# attention (benchmarks/attention.py), for blocks of 64, 128, 256 and a dense mask: 0.83, 0.86, 0.92 and 1.4
# at s 1024, w 512; 0.16, 0.17, 0.19 and 2.2 at s 8192, w 512.
BLOCK = 64


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
    starts: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + mask) v, where query i of s sees keys up to s_k - s + i.

    Args:
        query: ``[b, heads, s, d]``.
        key: ``[b, groups, s_k, d]``, s_k >= s; each group serves heads / groups heads in a row.
        value: ``[b, groups, s_k, d]``.
        window: a query sees this many keys, including its own; None: all up to its own.
        dropout: of the attention weights; with a window or ``starts`` on the CPU only.
        starts: ``[b, s]``, where each query's document starts: it sees no key before. Needs s_k = s.

    Returns:
        ``[b, heads, s, d]``.
    """
    if starts is not None:
        if query.is_cuda:
            if dropout > 0:
                raise ValueError("attention of separate documents on the GPU has no dropout")
            return documents_on_gpu(query, key, value, starts, window, scale)
        return _document_by_document(query, key, value, starts, window, scale, dropout)
    if window is not None:
        out_of_reach = max(0, key.shape[2] - (query.shape[2] + window - 1))
        key, value = key[:, :, out_of_reach:], value[:, :, out_of_reach:]
    if window is None or window >= key.shape[2]:
        return _full(query, key, value, scale, dropout)
    if query.is_cuda:
        if dropout > 0:
            raise ValueError("windowed attention on the GPU has no dropout")
        return windowed_attention_on_gpu(query, key, value, window, scale)
    return _windowed_on_cpu(query, key, value, window, scale, dropout)


def _document_by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    window: int | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """On the CPU: keys of other documents cost nothing.

    Time of forward and backward against causal attention over the whole sequence, s 2048: 0.07, 0.30 and 0.86
    with about 70, 6 and 1.5 documents; a mask takes 1.7 times as long as that.
    """
    rows = []
    places = torch.arange(starts.shape[1])
    for row, own in enumerate(starts):
        lengths = torch.diff((own == places).nonzero().flatten(), append=places.new_tensor([len(own)]))
        parts = (tensor[row : row + 1].split(lengths.tolist(), dim=2) for tensor in (query, key, value))
        attended = [
            causal_attention(*document, scale=scale, window=window, dropout=dropout)
            for document in zip(*parts, strict=True)
        ]
        rows.append(torch.cat(attended, dim=2))
    return torch.cat(rows)


def _full(query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float) -> Tensor:
    """Without a window."""
    queries, keys = query.shape[2], key.shape[2]
    mask: Tensor | None = None
    if 1 < queries < keys:
        # SDPA aligns is_causal at the start. On CUDA this bias selects flash kernels that align at the end.
        # The CPU uses a mask: blocks of queries, each with the keys it needs, would take 0.83 to 0.98 of its
        # time, but only chunks of split sequences and several new tokens at once get here.
        mask = _lower_right(queries, keys) if query.is_cuda else visible(queries, keys, None, query.device)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=queries == keys,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _lower_right(queries: int, keys: int) -> Tensor:
    from torch.nn.attention.bias import causal_lower_right  # It imports the compiler, a quarter of a second.

    return causal_lower_right(queries, keys)


def _windowed_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, window: int, scale: float, dropout: float
) -> Tensor:
    """Full attention for the queries that see less than a whole window, blocks for the others."""
    before = key.shape[2] - query.shape[2]
    if before >= window - 1:
        return _in_blocks(query, key, value, window, scale, dropout)
    first = window - before  # The last of these queries sees exactly the window.
    start = _full(query[:, :, :first], key[:, :, :window], value[:, :, :window], scale, dropout)
    rest = _in_blocks(query[:, :, first:], key[:, :, 1:], value[:, :, 1:], window, scale, dropout)
    return torch.cat([start, rest], dim=2)


def _in_blocks(
    query: Tensor, key: Tensor, value: Tensor, window: int, scale: float, dropout: float
) -> Tensor:
    """Blocks of queries, each with the band of keys it sees, as one batch under one small mask.

    The keys are those within reach: ``s + window - 1``. They are copied 1 + (window - 1) / BLOCK times.
    """
    samples, heads, queries, _ = query.shape
    block = min(BLOCK, queries)
    blocks = -(-queries // block)
    missing = blocks * block - queries
    if missing:  # Padded keys come after all real queries: only padded queries see them.
        query, key, value = (pad(tensor, (0, 0, 0, missing)) for tensor in (query, key, value))
    band = block + window - 1

    def bands(tensor: Tensor) -> Tensor:
        copies = tensor.unfold(2, band, block).permute(0, 2, 1, 4, 3)
        return copies.reshape(samples * blocks, tensor.shape[1], band, tensor.shape[3])

    out = scaled_dot_product_attention(
        query.unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1),
        bands(key),
        bands(value),
        attn_mask=visible(block, band, window, query.device),
        dropout_p=dropout,
        scale=scale,
        enable_gqa=heads != key.shape[1],
    )
    joined = out.unflatten(0, (samples, blocks)).transpose(1, 2).flatten(2, 3)
    return joined[:, :, :queries]
