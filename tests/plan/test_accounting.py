"""Parameter and FLOP counts against the models themselves and against Param-1's published numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig, padded_vocab_size
from recipes.model.build import build_gpt_model
from recipes.plan.accounting import count_parameters, flops_per_token
from tests.support.engine import TINY

pytestmark = pytest.mark.usefixtures("engine")

PARAM1 = ModelConfig(
    num_layers=32,
    hidden_size=2048,
    ffn_hidden_size=7168,
    num_attention_heads=16,
    num_query_groups=8,
    kv_channels=128,
    vocab_size=256_000,
    max_position_embeddings=2048,
    init_method_std=0.01,
)


def test_param1() -> None:
    counts = count_parameters(PARAM1)
    assert counts.total == counts.active_per_token == 2_860_648_448
    assert counts.total - counts.non_embedding == 2 * 256_000 * 2048
    flops = flops_per_token(PARAM1, 2048)
    assert flops / 1e9 == pytest.approx(15.6, abs=0.05)
    assert 0.5 * 989e12 / flops == pytest.approx(31_600, rel=0.005)


def test_param1_5b() -> None:
    """The family's public 5B size, its total added up by hand."""
    model = replace(
        PARAM1,
        num_layers=16,
        hidden_size=4096,
        ffn_hidden_size=14336,
        num_attention_heads=32,
        num_query_groups=8,
    )
    attention = 4096 * 4096 * 2 + 2 * 4096 * 1024
    expected = 2 * 256_000 * 4096 + 16 * (attention + 3 * 4096 * 14336 + 2 * 4096) + 4096
    assert count_parameters(model).total == expected


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    groups = draw(st.integers(1, 3))
    heads = groups * draw(st.integers(1, 3))
    # With biases megatron-core's local linear layers are all biased or none is.
    return ModelConfig(
        num_layers=draw(st.integers(1, 3)),
        hidden_size=heads * 2 * draw(st.integers(1, 4)),
        ffn_hidden_size=draw(st.integers(1, 40)),
        num_attention_heads=heads,
        num_query_groups=groups,
        kv_channels=draw(st.none() | st.sampled_from([2, 6, 8])),
        vocab_size=draw(st.integers(1, 300)),
        make_vocab_size_divisible_by=draw(st.sampled_from([1, 8, 128])),
        max_position_embeddings=draw(st.integers(1, 30)),
        normalization=draw(st.sampled_from(["RMSNorm", "LayerNorm"])),
        activation=draw(st.sampled_from(["swiglu", "gelu"])),
        add_bias_linear=draw(st.booleans()),
        position_embedding_type=draw(st.sampled_from(["rope", "learned_absolute"])),
        share_embeddings_and_output_weights=draw(st.booleans()),
    )


@given(models())
@settings(max_examples=40, deadline=None)
def test_counts_equal_the_model(model: ModelConfig) -> None:
    gpt = build_gpt_model(model, ParallelConfig(), torch.float32)
    sizes = {name: p.numel() for name, p in gpt.named_parameters()}
    tables = 1 if model.share_embeddings_and_output_weights else 2
    padding = padded_vocab_size(model) - model.vocab_size
    assert padded_vocab_size(model) % model.make_vocab_size_divisible_by == 0
    assert 0 <= padding < model.make_vocab_size_divisible_by
    counts = count_parameters(model)
    assert counts.total == sum(sizes.values()) - tables * padding * model.hidden_size
    layers = sum(size for name, size in sizes.items() if name.startswith("decoder."))
    assert counts.non_embedding == layers


def linear_flops(rows: torch.Size, weight: torch.Size, *others: Any, **options: Any) -> int:
    """Of a product that torch's counter does not know."""
    return 2 * rows.numel() * weight[0]


@pytest.mark.parametrize(
    "model",
    [
        replace(TINY, vocab_size=256),
        replace(TINY, vocab_size=256, share_embeddings_and_output_weights=True, num_query_groups=None),
        replace(TINY, vocab_size=256, activation="gelu", kv_channels=24),
    ],
    ids=["gqa", "tied_mha", "gelu_wide_heads"],
)
def test_flops_equal_those_of_a_training_step(model: ModelConfig) -> None:
    """torch counts the matrix products that forward and backward really do, attention written out."""
    gpt = build_gpt_model(model, ParallelConfig(), torch.float32)
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokens = torch.zeros(2, 48, dtype=torch.long)
    positions = torch.arange(48).expand(2, -1)
    by_onednn = {torch.ops.mkldnn._linear_pointwise: linear_flops}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=by_onednn) as counter,
    ):
        gpt(tokens, positions, None, labels=tokens).sum().backward()
    assert counter.get_total_flops() == flops_per_token(model, 48) * tokens.numel()
