"""Causal attention, full and windowed, against the attention matrix written out in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.model.causal import BLOCK, causal_attention
from tests.support.dense_attention import (
    assert_attends_as_dense,
    attention_inputs,
    dense_attention,
    document_starts,
    with_gradients,
)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    queries = draw(st.integers(1, 3 * BLOCK))
    groups = draw(st.integers(1, 3))
    return {
        "samples": draw(st.integers(1, 2)),
        "heads": groups * draw(st.integers(1, 3)),
        "groups": groups,
        "queries": queries,
        "keys": queries + draw(st.sampled_from([0, 0, 1, 7, BLOCK, 130])),
        "width": draw(st.sampled_from([1, 4, 8, 20])),
    }


ALIGNED = {"samples": 2, "heads": 6, "groups": 2, "queries": 200, "keys": 200, "width": 8}


@given(shape=shapes(), window=st.none() | st.integers(1, 200), scale=st.sampled_from([0.1, 1.0]))
@example(shape=ALIGNED, window=1, scale=1.0)
@example(shape=ALIGNED, window=199, scale=1.0)
@example(shape=ALIGNED, window=200, scale=1.0)
@example(shape=ALIGNED, window=200 - BLOCK, scale=1.0)  # One whole block.
@example(shape=ALIGNED, window=199 - BLOCK, scale=1.0)  # And one query more.
@example(shape={**ALIGNED, "keys": 230}, window=31, scale=1.0)  # As many keys before as the window reaches.
@example(shape={**ALIGNED, "keys": 230}, window=32, scale=1.0)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_forward_and_gradients(shape: dict[str, int], window: int | None, scale: float) -> None:
    *inputs, gradient = attention_inputs(**shape)
    ours = with_gradients(
        lambda *tensors: causal_attention(*tensors, scale=scale, window=window), tuple(inputs), gradient
    )
    expected = with_gradients(
        lambda *tensors: dense_attention(*tensors, scale, window), tuple(inputs), gradient
    )
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@given(
    length=st.integers(1, 3 * BLOCK),
    mean=st.sampled_from([1, 2, 10, 50, 1000]),
    window=st.none() | st.integers(1, 200),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_separate_documents(length: int, mean: int, window: int | None, seed: int) -> None:
    *inputs, gradient = attention_inputs(2, 4, 2, length, length, 8, seed)
    starts = document_starts(2, length, mean, seed)
    ours = with_gradients(
        lambda *tensors: causal_attention(*tensors, scale=0.3, window=window, starts=starts),
        tuple(inputs),
        gradient,
    )
    expected = with_gradients(
        lambda *tensors: dense_attention(*tensors, 0.3, window, starts), tuple(inputs), gradient
    )
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("keys", [200, 230])
def test_training_precisions(dtype: torch.dtype, atol: float, window: int | None, keys: int) -> None:
    assert_attends_as_dense(200, keys, window, dtype, atol, "cpu")


def test_windowed_dropout_keeps_the_mean_and_the_window() -> None:
    """The weights are read off by one-hot values."""
    length, window = 2 * BLOCK, 3
    query, key, _, _ = attention_inputs(1, 1, 1, length, length, 8)
    one_hot = torch.eye(length, dtype=torch.float64)[None, None]
    draws = torch.stack(
        [causal_attention(query, key, one_hot, scale=0.1, window=window, dropout=0.5) for _ in range(600)]
    )
    exact = dense_attention(query, key, one_hot, 0.1, window)
    assert (draws[:, exact == 0] == 0).all()
    seen = draws[:, exact > 0]
    assert 0.48 < (seen == 0).double().mean() < 0.52
    torch.testing.assert_close(seen.mean(0), exact[exact > 0], rtol=0.2, atol=0)


def test_a_validation_step_before_training_changes_nothing() -> None:
    """What a first call in inference mode may cache must not be unusable for the backward pass."""
    *inputs, gradient = attention_inputs(1, 4, 2, 100, 100, 8)

    def attend(*tensors: Tensor) -> Tensor:
        return causal_attention(*tensors, scale=0.3, window=17)

    with torch.inference_mode():
        attend(*inputs)
    _, *gradients = with_gradients(attend, tuple(inputs), gradient)
    assert all(tensor.abs().max() > 0 for tensor in gradients)
