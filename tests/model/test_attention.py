"""Core attention without Transformer Engine against the formula, from megatron-core's settings on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from recipes.config.schema import ParallelConfig
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.model.attention import SDPACoreAttention
from recipes.model.build import build_gpt_model, transformer_config
from tests.support.engine import TINY, attention_dropout_output, initialized
from tests.support.linear_cases import losses, tokens
from tests.support.pool import GlooPool

pytestmark = pytest.mark.usefixtures("engine")


def core_attention(
    model: ModelConfig, softmax_scale: float | None = None, layer_number: int = 1
) -> SDPACoreAttention:
    config = transformer_config(model, ParallelConfig(), torch.float32)
    return SDPACoreAttention(config, layer_number, AttnMaskType.causal, "self", softmax_scale=softmax_scale)


def formula(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None) -> Tensor:
    """softmax(q k^T scale) v in float64, query by query: each sees the last ``window`` keys up to its own."""
    length, samples, heads, width = query.shape
    before, per_group = key.shape[0] - length, heads // key.shape[2]
    out = torch.empty(length, samples, heads, width, dtype=torch.float64)
    for sample in range(samples):
        for head in range(heads):
            for i in range(length):
                end = before + i + 1
                seen = slice(0 if window is None else max(0, end - window), end)
                k, v = (t[seen, sample, head // per_group].double() for t in (key, value))
                weights = (k @ query[i, sample, head].double() * scale).exp()
                out[i, sample, head] = weights @ v / weights.sum()
    return out.flatten(2)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def attend(attention: SDPACoreAttention, *tensors: Tensor, **settings: Any) -> Tensor:
    return attention(*(tensor.to("cuda") for tensor in tensors), None, **settings).cpu()


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_formula(heads: int, groups: int, scale: float | None) -> None:
    model = replace(TINY, num_attention_heads=heads, num_query_groups=groups, kv_channels=16)
    inputs = random(20, 2, heads, 16), random(20, 2, groups, 16), random(20, 2, groups, 16) * 3
    expected = formula(*inputs, scale or 1 / math.sqrt(16))
    out = attend(core_attention(model, scale), *inputs)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


def test_the_configured_softmax_scale_reaches_the_layers() -> None:
    model = replace(TINY, megatron={"softmax_scale": 0.3})
    gpt = build_gpt_model(model, ParallelConfig(), torch.float32)
    assert [layer.self_attention.core_attention.softmax_scale for layer in gpt.decoder.layers] == [0.3] * 4


WINDOWED = replace(TINY, window_size=6, window_pattern="SSL")


@pytest.mark.parametrize(("layer_number", "window"), [(1, 6), (2, 6), (3, None), (4, 6)])
def test_windows_by_layer(layer_number: int, window: int | None) -> None:
    inputs = random(20, 2, 4, 16), random(20, 2, 2, 16), random(20, 2, 2, 16) * 3
    out = attend(core_attention(WINDOWED, layer_number=layer_number), *inputs)
    torch.testing.assert_close(out.double(), formula(*inputs, 0.25, window), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [(None, [5, 5, 5, 5]), (3, [5, 5, None, 5]), ([1, 0, 0, 1], [5, None, None, 5])],
)
def test_windows_by_megatron_fields(frequency: int | list[int] | None, expected: list[int | None]) -> None:
    config = transformer_config(TINY, ParallelConfig(), torch.float32)
    config.window_size, config.window_attn_skip_freq = [4, 0], frequency
    layers = (SDPACoreAttention(config, number, AttnMaskType.causal, "self") for number in range(1, 5))
    assert [layer.window for layer in layers] == expected


@pytest.mark.parametrize("mask_type", [None, AttnMaskType.causal, AttnMaskType.no_mask])
@pytest.mark.parametrize("new", [1, 2, 5])
@pytest.mark.parametrize("layer_number", [1, 3])
def test_new_tokens_attend_to_the_cache(mask_type: AttnMaskType, new: int, layer_number: int) -> None:
    inputs = random(new, 2, 4, 16), random(9, 2, 2, 16), random(9, 2, 2, 16) + 1
    out = attend(core_attention(WINDOWED, layer_number=layer_number), *inputs, attn_mask_type=mask_type)
    expected = formula(*inputs, 0.25, window=6 if layer_number == 1 else None)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


def test_masks_are_refused() -> None:
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    inputs = random(4, 1, 4, 16), random(4, 1, 2, 16), random(4, 1, 2, 16)
    with pytest.raises(ValueError, match="causal"):
        core_attention(TINY)(*inputs, mask)
    with pytest.raises(ValueError, match="starts"):
        core_attention(TINY)(*inputs, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="padding"):
        core_attention(TINY)(*inputs, None, attn_mask_type=AttnMaskType.padding)


def test_layers_that_see_ahead_are_refused() -> None:
    config = transformer_config(TINY, ParallelConfig(), torch.float32)
    with pytest.raises(ValueError, match="causal"):
        SDPACoreAttention(config, 1, AttnMaskType.no_mask, "self")


def test_layers_with_dropout_are_compiled_in_one_piece() -> None:
    """As on a GPU; switching to a random state of megatron-core's would cut them."""
    torch._dynamo.reset()
    gpt = initialized(replace(TINY, attention_dropout=0.1, hidden_dropout=0.1))
    for layer in gpt.decoder.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    first, second = (losses(gpt, tokens()) for _ in range(2))
    first.sum().backward()
    assert not torch.equal(first, second), "nothing was dropped"


@pytest.mark.parametrize("layer_number", [1, 3])
def test_dropout_keeps_the_mean(layer_number: int) -> None:
    attention = core_attention(replace(WINDOWED, attention_dropout=0.5), layer_number=layer_number)
    inputs = random(8, 1, 4, 16), random(8, 1, 2, 16), random(8, 1, 2, 16)
    mean = torch.stack([attend(attention, *inputs) for _ in range(3000)]).mean(0)
    attention.eval()
    exact = attend(attention, *inputs)
    assert (mean - exact).abs().max() < 0.15 * exact.abs().max()
    assert not torch.equal(mean, exact)


def test_windowed_dropout_on_the_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformer_config(replace(WINDOWED, attention_dropout=0.1), ParallelConfig(), torch.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"model\.attention_dropout=0\.1: .*no dropout"):
        SDPACoreAttention(config, 1, AttnMaskType.causal, "self")
    SDPACoreAttention(config, 3, AttnMaskType.causal, "self")  # The layer without a window may.


def test_tensor_parallel_ranks_drop_different_places(gloo_pool: GlooPool) -> None:
    (first, after_first), (second, after_second) = gloo_pool.run(
        2, attention_dropout_output, ParallelConfig(tensor_model_parallel_size=2)
    )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(after_first, after_second)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("softmax_type", "off-by-one"),
        ("apply_query_key_layer_scaling", True),
        ("qk_clip", True),
        ("log_max_attention_logit", True),
    ],
)
def test_settings_it_would_ignore_are_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"model\.megatron\.{field}=.*Transformer Engine"):
        build_gpt_model(replace(TINY, megatron={field: value}), ParallelConfig(), torch.float32)


@pytest.mark.parametrize("window_size", [(8, 1), (8, -1), (-1, 0), (-1, -1)])
def test_windows_that_are_not_causal_are_refused(window_size: tuple[int, int]) -> None:
    model = replace(TINY, megatron={"window_size": window_size})
    with pytest.raises(UserError, match=r"model\.megatron\.window_size=\(.*causal"):
        build_gpt_model(model, ParallelConfig(), torch.float32)


def test_other_context_parallel_kinds_are_refused() -> None:
    config = transformer_config(TINY, ParallelConfig(), torch.float32)
    SDPACoreAttention(config, 1, AttnMaskType.causal, "self", cp_comm_type="all_gather")
    with pytest.raises(UserError, match=r"cp_comm_type=p2p: .*all_gather"):
        SDPACoreAttention(config, 1, AttnMaskType.causal, "self", cp_comm_type="p2p")
