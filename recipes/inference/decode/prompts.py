"""Reading prompts: which are read together, and their attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from recipes.model.causal import causal_attention
from recipes.model.windows import visible

# Tokens of one pass, padding included. More would not make a pass faster per token.
PASS = {"cuda": 8192, "cpu": 512}


def prompt_batches(lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """Prompts by number, those of similar length together."""
    limit = PASS.get(device, PASS["cpu"])
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def prompt_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None
) -> Tensor:
    """``[b, heads, s, d]`` on ``[b, groups, s_k, d]``, causal, the queries being the last tokens.

    On GPUs windows are a mask here: kernels that skip what is out of sight are compiled for a shape, which
    takes longer than reading a prompt.
    """
    queries, keys = query.shape[2], key.shape[2]
    if query.is_cuda and window is not None and keys > window:
        repeats = query.shape[1] // key.shape[1]
        return scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, dim=1),
            value.repeat_interleave(repeats, dim=1),
            attn_mask=visible(queries, keys, window, query.device),
            scale=scale,
        )
    return causal_attention(query, key, value, scale=scale, window=window)
