"""SDPA as core attention against the formula in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from recipes.config.schema import ModelConfig, ParallelConfig
from recipes.errors import UserError
from recipes.model.build import build_gpt_model, transformer_config
from tests.support.engine import TINY, attention_dropout_output, process_groups
from tests.support.pool import GlooPool

from recipes.model.attention import SDPACoreAttention  # isort: skip


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    with process_groups():
        yield


def core_attention(model: ModelConfig, softmax_scale: float | None = None) -> SDPACoreAttention:
    config = transformer_config(model, ParallelConfig(), torch.float32)
    return SDPACoreAttention(config, 1, AttnMaskType.causal, "self", softmax_scale=softmax_scale)


def formula(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Tensor:
    """softmax(q k^T scale) v in float64, head by head."""
    length, samples, heads, width = query.shape
    groups = key.shape[2]
    out = torch.empty(length, samples, heads, width, dtype=torch.float64)
    for sample in range(samples):
        for head in range(heads):
            group = head // (heads // groups)
            q, k, v = (t[:, sample, i].double() for t, i in ((query, head), (key, group), (value, group)))
            scores = q @ k.T * scale
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            out[:, sample, head] = weights @ v
    return out.flatten(2)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_formula(heads: int, groups: int, scale: float | None) -> None:
    model = replace(TINY, num_attention_heads=heads, num_query_groups=groups, kv_channels=16)
    query, key, value = random(20, 2, heads, 16), random(20, 2, groups, 16), random(20, 2, groups, 16) * 3
    out = core_attention(model, scale)(*(t.to("cuda") for t in (query, key, value)), None).cpu()
    expected = formula(query, key, value, scale or 1 / math.sqrt(16), causal=True)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mask_type", [AttnMaskType.causal, AttnMaskType.no_mask])
def test_one_new_token_attends_to_the_whole_cache(mask_type: AttnMaskType) -> None:
    query, key, value = random(1, 2, 4, 16), random(9, 2, 2, 16), random(9, 2, 2, 16) + 1
    attention = core_attention(TINY)
    out = attention(*(t.to("cuda") for t in (query, key, value)), None, attn_mask_type=mask_type).cpu()
    torch.testing.assert_close(
        out.double(), formula(query, key, value, 0.25, causal=False), rtol=0, atol=1e-5
    )


def test_several_new_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="several new tokens"):
        core_attention(TINY)(random(2, 1, 4, 16), random(9, 1, 2, 16), random(9, 1, 2, 16), None)


def test_masks_are_refused() -> None:
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="causal"):
        core_attention(TINY)(random(4, 1, 4, 16), random(4, 1, 2, 16), random(4, 1, 2, 16), mask)


def test_dropout_keeps_the_mean() -> None:
    attention = core_attention(replace(TINY, attention_dropout=0.5))
    query, key, value = (
        t.to("cuda") for t in (random(8, 1, 4, 16), random(8, 1, 2, 16), random(8, 1, 2, 16))
    )
    mean = torch.stack([attention(query, key, value, None) for _ in range(3000)]).mean(0)
    attention.eval()
    exact = attention(query, key, value, None)
    assert (mean - exact).abs().max() < 0.15 * exact.abs().max()
    assert not torch.equal(mean, exact)


def test_tensor_parallel_ranks_drop_different_places(gloo_pool: GlooPool) -> None:
    (first, after_first), (second, after_second) = gloo_pool.run(
        2, attention_dropout_output, ParallelConfig(tensor_model_parallel_size=2)
    )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(after_first, after_second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window_size", (8, 0)),
        ("softmax_type", "off-by-one"),
        ("apply_query_key_layer_scaling", True),
        ("qk_clip", True),
    ],
)
def test_settings_it_would_ignore_are_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"model\.megatron\.{field}=.*Transformer Engine"):
        build_gpt_model(replace(TINY, megatron={field: value}), ParallelConfig(), torch.float32)
