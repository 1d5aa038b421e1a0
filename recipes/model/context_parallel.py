"""Attention over a sequence that is split among context-parallel ranks.

By all-gather, as in Llama 3's training (arXiv 2407.21783, section 3.3.2): every rank gathers all keys
and values, then attends with its own queries. Transformer Engine's default is a ring, which passes
keys and values around and never holds them all. Gathering is simpler, also works for windows, and with
grouped queries keys and values are a small part of the activations.

The split is megatron-core's (``get_batch_on_this_cp_rank``): the sequence is cut into 2 cp chunks and rank r
holds chunks r and 2 cp - 1 - r, so that the queries of every rank see equally many keys in total.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.utils import divide
from torch import Tensor
from torch.distributed import ProcessGroup


def context_parallel_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    group: ProcessGroup,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Attends with this rank's two chunks of queries, each to all keys up to the chunk's end.

    Args:
        query: this rank's ``[s / cp, b, heads, d]``.
        key: this rank's ``[s / cp, b, groups, d]``.
        value: this rank's ``[s / cp, b, groups, d]``.
        group: the context-parallel ranks.
        attend: causal attention whose queries are at the last keys, on ``[s, b, heads, d]``.

    Returns:
        ``[s / cp, b, heads, d]``.
    """
    if key.shape[0] != query.shape[0]:
        raise ValueError("decoding with a cache is not possible under context parallelism")
    ranks, rank = group.size(), group.rank()
    chunk = divide(query.shape[0], 2)
    # One collective for both. Its backward pass sums the gradients from all ranks and scatters them.
    both = gather_from_sequence_parallel_region(torch.cat([key, value], dim=-1), group=group)
    keys, values = _in_natural_order(both, ranks).split([key.shape[-1], value.shape[-1]], dim=-1)
    attended = []
    for own, place in zip(query.split(chunk), (rank, 2 * ranks - 1 - rank), strict=True):
        end = (place + 1) * chunk
        attended.append(attend(own, keys[:end], values[:end]))
    return torch.cat(attended)


def _in_natural_order(gathered: Tensor, ranks: int) -> Tensor:
    """Reorders rank 0's two chunks, rank 1's two chunks, ... into sequence order, along dimension 0."""
    chunks = gathered.chunk(2 * ranks)
    return torch.cat([*chunks[0::2], *reversed(chunks[1::2])])
