"""Attention over a split sequence equals attention over the whole, on real processes under gloo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recipes.config.schema import ParallelConfig
from tests.support.attention_cases import (
    attention_parts,
    decoding_under_context_parallelism,
    dropped_positions,
)
from tests.support.dense_attention import attention_inputs, dense_attention
from tests.support.engine import TINY
from tests.support.pool import GlooPool

LENGTH = 96
CP2 = ParallelConfig(context_parallel_size=2)


@pytest.mark.parametrize("window", [None, 5, 40, 90])
@pytest.mark.parametrize(
    "parallel",
    [
        CP2,
        ParallelConfig(context_parallel_size=3),
        ParallelConfig(context_parallel_size=2, tensor_model_parallel_size=2),
    ],
    ids=["cp2", "cp3", "cp2_tp2"],
)
def test_parts_of_the_whole(gloo_pool: GlooPool, parallel: ParallelConfig, window: int | None) -> None:
    model = replace(TINY, window_size=window, window_pattern=window and "S")
    *inputs, gradient = attention_inputs(2, 4, 2, LENGTH, LENGTH, 16)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    whole = dense_attention(*leaves, 0.25, window)
    expected = [whole, *torch.autograd.grad(whole, leaves, gradient)]
    as_megatron = [
        t.detach().permute(2, 0, 1, 3).contiguous().numpy() for t in (*expected, *inputs, gradient)
    ]
    expected_arrays, arguments = as_megatron[:4], as_megatron[4:]
    context, tensor = parallel.context_parallel_size, parallel.tensor_model_parallel_size
    results = gloo_pool.run(context * tensor, attention_parts, model, parallel, *arguments)
    covered = np.concatenate([r["positions"] for r in results if r["tensor_rank"] == 0])
    assert sorted(covered) == list(range(LENGTH))
    for result in results:
        for got, wanted in zip((result["output"], *result["gradients"]), expected_arrays, strict=True):
            heads = np.split(wanted, tensor, axis=2)[result["tensor_rank"]]
            np.testing.assert_allclose(got, heads[result["positions"]], rtol=0, atol=1e-10)


def test_ranks_drop_different_places(gloo_pool: GlooPool) -> None:
    model = replace(TINY, attention_dropout=0.5, window_size=1, window_pattern="S", num_query_groups=4)
    first, second = gloo_pool.run(2, dropped_positions, model, CP2, 64)
    for dropped in (first, second):
        assert 0.3 < dropped.mean() < 0.7
    assert 0.3 < (first != second).mean() < 0.7


def test_decoding_is_refused(gloo_pool: GlooPool) -> None:
    said = gloo_pool.run(2, decoding_under_context_parallelism, TINY, CP2)
    assert all("decoding with a cache" in message for message in said)
