"""What a window shows, against transformers' definition; and what a CPU can tell of the GPU kernels."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from transformers.masking_utils import sliding_window_causal_mask_function

from recipes.model.causal import causal_attention
from recipes.model.windows import BLOCK_TABLES, block_mask, flash_attention_3, visible
from tests.support.dense_attention import attention_inputs, dense_attention, document_starts

CPU = torch.device("cpu")


@pytest.mark.parametrize("window", [1, 5, 12])
def test_windows_are_those_of_transformers(window: int) -> None:
    theirs = sliding_window_causal_mask_function(window)
    query, key = torch.arange(12)[:, None], torch.arange(12)[None, :]
    expected = theirs(0, 0, query, key).expand(12, 12)
    assert torch.equal(visible(12, 12, window, CPU), expected)
    # The last queries of the same sequence: how new tokens are decoded.
    assert torch.equal(visible(4, 12, window, CPU), expected[-4:])
    # And the attention itself sees just those keys: with equal scores every weight is 1 / (keys seen).
    zeros, one_hot = torch.zeros(1, 1, 12, 4), torch.eye(12)[None, None]
    weights = causal_attention(zeros, zeros, one_hot, scale=1.0, window=window)[0, 0]
    torch.testing.assert_close(weights, expected / expected.sum(1, keepdim=True))


@pytest.mark.parametrize(("queries", "keys", "window"), [(20, 20, 6), (300, 300, 140), (150, 300, 17)])
def test_flex_attention(queries: int, keys: int, window: int) -> None:
    """Uncompiled, with the block mask that the GPU gets."""
    query, key, value, _ = attention_inputs(2, 4, 2, queries, keys, 16)
    mask = block_mask(queries, keys, window, CPU)
    out = flex_attention(query, key, value, block_mask=mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, dense_attention(query, key, value, 0.3, window), rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("mean", [3, 60, 1000])
def test_flex_attention_of_separate_documents(mean: int, window: int | None) -> None:
    query, key, value, _ = attention_inputs(2, 4, 2, 300, 300, 16)
    starts = document_starts(2, 300, mean)
    mask = block_mask(300, 300, window, CPU, starts)
    out = flex_attention(query, key, value, block_mask=mask, scale=0.3, enable_gqa=True)
    expected = dense_attention(query, key, value, 0.3, window, starts)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert block_mask(300, 300, window, CPU, starts) is mask
    other = block_mask(300, 300, window, CPU, starts.clone())
    assert other is not mask


def test_blocks_without_the_own_document_are_skipped() -> None:
    starts = (torch.arange(1024) // 256 * 256).int()[None]  # Four documents of two blocks.
    mask = block_mask(1024, 1024, None, CPU, starts)
    seen = mask.kv_num_blocks + mask.full_kv_num_blocks
    assert seen.flatten().tolist() == [1, 2, 1, 2, 1, 2, 1, 2]


def test_block_masks_are_built_once_and_skip_blocks() -> None:
    with torch.inference_mode():
        mask = block_mask(1024, 1024, 128, CPU)
    assert not mask.kv_num_blocks.is_inference()
    assert block_mask(1024, 1024, 128, CPU) is mask
    # 8 x 8 blocks of 128: each row of blocks sees its own and the one before.
    assert mask.kv_num_blocks.flatten().tolist() == [1, 2, 2, 2, 2, 2, 2, 2]


def test_compiled_layers_take_the_tables_as_constants() -> None:
    """Whose building would be in every layer, and in every step. Of lengths that vary it has to be."""
    operations: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: list[Any]) -> Any:
        operations.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph

    def tables(rows: Tensor) -> list[Tensor]:
        mask = block_mask(len(rows), len(rows), 140, CPU)
        return [getattr(mask, name) + 0 for name in BLOCK_TABLES]

    compiled = torch.compile(tables, backend=backend, fullgraph=True)
    for length in (300, 1024, 512):
        rows = torch.zeros(length)
        for found, expected in zip(compiled(rows), tables(rows), strict=True):
            assert torch.equal(found, expected)
    # One split, and of each of eight tables: which part, its shape, the sum here.
    assert operations[0] == 1 + 3 * len(BLOCK_TABLES) < operations[1]
    assert len(operations) == 2


@pytest.mark.parametrize("with_log_sum_exp", [False, True])
def test_flash_attention_3_is_called_as_documented(
    monkeypatch: pytest.MonkeyPatch, with_log_sum_exp: bool
) -> None:
    """Its contract, computed densely: [b, s, heads, d], aligned at the end, windows as (left, right)."""

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, window_size: tuple[int, int]
    ) -> Any:
        left, right = window_size
        assert causal and right == 0
        out = dense_attention(*(t.transpose(1, 2) for t in (q, k, v)), softmax_scale, left + 1)
        return (out.transpose(1, 2), None) if with_log_sum_exp else out.transpose(1, 2)

    interface = ModuleType("flash_attn_interface")
    interface.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn_interface", interface)
    query, key, value, _ = attention_inputs(2, 4, 2, 30, 40, 16)
    out = flash_attention_3(query, key, value, 7, 0.3)
    torch.testing.assert_close(out, causal_attention(query, key, value, scale=0.3, window=7))
