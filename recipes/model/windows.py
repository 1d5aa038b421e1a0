"""Sliding windows and separate documents: which keys a query sees, and GPU kernels that skip the others.

A window of w tokens counts the query itself, as transformers' ``sliding_window`` does. megatron-core's
``window_size=(left, 0)`` sees ``left + 1``.

FlexAttention and FlashAttention-3 need CUDA. What has not run on a GPU yet is listed in docs/untested.md.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor

from recipes.errors import UserError

BLOCK_TABLES = (
    "kv_num_blocks",
    "kv_indices",
    "full_kv_num_blocks",
    "full_kv_indices",
    "q_num_blocks",
    "q_indices",
    "full_q_num_blocks",
    "full_q_indices",
)
"""The tensors of FlexAttention's BlockMask."""


def layer_window(config: TransformerConfig, layer_number: int) -> int | None:
    """How many tokens the layer attends to, including the query's own; None: all before it.

    Args:
        layer_number: from 1, over all pipeline stages.

    Raises:
        UserError: the window looks ahead or has no left end; neither is a causal sliding window.
    """
    if config.window_size is None:
        return None
    left, right = config.window_size
    if left < 0 or right != 0:
        raise UserError(
            f"model.megatron.window_size={tuple(config.window_size)}: causal windows are (left, 0) with "
            "left >= 0; set model.window_size and model.window_pattern"
        )
    if not is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number):
        return None
    return int(left) + 1


def sees(
    before: int, window: int | None, starts: Tensor | None = None
) -> Callable[[Any, Any, Any, Any], Any]:
    """The mask as a function of (sample, head, query index, key index), FlexAttention's ``mask_mod``.

    Args:
        before: number of keys before the first query's own.
        window: tokens that a query sees, including its own; None: all before it.
        starts: ``[b, s]``, the first key that each query may see; None: any.
    """

    def mask_mod(sample: Any, head: Any, query: Any, key: Any) -> Any:
        position = query + before
        seen = key <= position
        if window is not None:
            seen = seen & (key > position - window)
        if starts is not None:
            seen = seen & (key >= starts[sample, query])
        return seen

    return mask_mod


def visible(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """The mask as a table ``[queries, keys]``, true where the query sees the key.

    The last query is at the last key.
    """
    query = torch.arange(queries, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    table: Tensor = sees(keys - queries, window)(None, None, query, key)
    return table


def windowed_attention_on_gpu(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> Tensor:
    """Windowed causal attention that skips keys that no query sees; the last query is at the last key.

    FlashAttention-3 where it is installed, on Hopper GPUs and in half precision; FlexAttention elsewhere.

    Args:
        query: ``[b, heads, s, d]``.
        key: ``[b, groups, s_k, d]``.
        value: ``[b, groups, s_k, d]``.

    Returns:
        ``[b, heads, s, d]``.
    """
    if takes_flash_attention_3(query.dtype, query.device):
        return flash_attention_3(query, key, value, window, scale)
    return _flex_attention(query, key, value, window, scale, None)


def documents_on_gpu(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, window: int | None, scale: float
) -> Tensor:
    """As :func:`windowed_attention_on_gpu`, by FlexAttention, for queries that see no key before a place.

    Args:
        starts: that place for each query, ``[b, s]``.
        window: may be None.
    """
    return _flex_attention(query, key, value, window, scale, starts)


def _flex_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float, starts: Tensor | None
) -> Tensor:
    mask = block_mask(query.shape[2], key.shape[2], window, query.device, starts)
    out: Tensor = _compiled_flex_attention()(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out


def takes_flash_attention_3(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether windows on this GPU are computed by FlashAttention-3."""
    return dtype in (torch.bfloat16, torch.float16) and _have_flash_attention_3(device)


@cache
def _have_flash_attention_3(device: torch.device) -> bool:
    """Its kernels are written for Hopper (compute capability 9) only."""
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and importlib.util.find_spec("flash_attn_interface") is not None


def flash_attention_3(query: Tensor, key: Tensor, value: Tensor, window: int, scale: float) -> Tensor:
    """FlashAttention-3 (arXiv 2407.08608) from Dao-AILab's ``flash_attn_interface``, shapes as above."""
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(
        *(tensor.transpose(1, 2) for tensor in (query, key, value)),  # It takes [b, s, heads, d].
        softmax_scale=scale,
        causal=True,  # Aligned at the end: the last query is at the last key.
        window_size=(window - 1, 0),
    )
    # Releases before mid-2025 return the log-sum-exp too.
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended.transpose(1, 2)


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    # Imported here because nothing on the CPU needs it.
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def block_mask(
    queries: int, keys: int, window: int | None, device: torch.device, starts: Tensor | None = None
) -> Any:
    """FlexAttention's table of the blocks of keys that each block of queries sees.

    Built once per shape, and with ``starts`` once per micro-batch: a tensor is equal to itself only. A
    compiled layer takes its tables as constants: the compiler looks past caches, and would have every layer
    build them in every step, by ten small kernels and four sorts.
    """
    from torch.fx.experimental.symbolic_shapes import has_static_value
    from torch.nn.attention.flex_attention import _DEFAULT_SPARSE_BLOCK_SIZE, BlockMask

    is_constant = starts is None and torch.compiler.is_compiling()
    if not (is_constant and has_static_value(queries) and has_static_value(keys)):
        compiled = device.type == "cuda"
        return _built_block_mask(queries, keys, window, device, starts, compiled=compiled)
    packed = _packed_tables(queries, keys, window, device)
    rows, columns = (-(-length // _DEFAULT_SPARSE_BLOCK_SIZE) for length in (queries, keys))
    shapes = 2 * [(rows,), (rows, columns)] + 2 * [(columns,), (columns, rows)]
    parts = packed.split([math.prod(shape) for shape in shapes])
    tables = (part.view(1, 1, *shape) for part, shape in zip(parts, shapes, strict=True))
    return BlockMask((queries, keys), *tables, mask_mod=sees(keys - queries, window))  # type: ignore[misc]


def _packed_tables(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """The tables in a row, since torch's compiler takes one constant of a function."""
    mask = _built_block_mask(queries, keys, window, device)  # Not compiled: a layer is being compiled now.
    with torch.inference_mode(False):
        return torch.cat([getattr(mask, name).flatten() for name in BLOCK_TABLES])


# As torch.compiler.assume_constant_result does, which imports the compiler: completion does without it.
_packed_tables._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _built_block_mask(
    queries: int,
    keys: int,
    window: int | None,
    device: torch.device,
    starts: Tensor | None = None,
    *,
    compiled: bool = False,
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    # Compiled, it reduces to blocks without writing out [queries, keys].
    build = torch.compile(create_block_mask) if compiled else create_block_mask
    samples = None if starts is None else starts.shape[0]
    # The first use may be a validation step: a mask made in inference mode could not train later.
    with torch.inference_mode(False):
        return build(sees(keys - queries, window, starts), samples, None, queries, keys, device=device)
