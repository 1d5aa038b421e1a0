"""The table in both directions, for any sizes."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.families.family import known_families, tensor_table
from recipes.families.model_config import ModelConfig, kv_channels, padded_vocab_size
from recipes.families.tensors import TensorSpec, qkv
from recipes.plan.accounting import count_parameters

FAMILIES = ("llama", "gemma3", "nano_hindi", "param_moe")


def split(spec: TensorSpec, tensor: Tensor) -> list[Tensor]:
    """Ours -> theirs."""
    parts: list[list[Tensor]] = [[] for _ in spec.theirs]
    for run in sorted(spec.runs, key=lambda run: run.start):
        parts[run.which].append(tensor[run.place : run.place + run.count])
    return [torch.cat(part) for part in parts]


def merge(spec: TensorSpec, tensors: list[Tensor]) -> Tensor:
    """Theirs -> ours."""
    merged = tensors[0].new_zeros(spec.shape)
    for run in spec.runs:
        merged[run.place : run.place + run.count] = tensors[run.which][run.start : run.start + run.count]
    return merged


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    family = draw(st.sampled_from(FAMILIES))
    groups = draw(st.integers(1, 4))
    heads = groups * draw(st.integers(1, 3))
    layers = draw(st.integers(1, 3))
    fields: dict[str, Any] = {
        "family": family,
        "num_layers": layers,
        "hidden_size": 4 * heads,
        "ffn_hidden_size": draw(st.integers(1, 5)),
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "kv_channels": draw(st.sampled_from([None, 2, 6])),
        "vocab_size": draw(st.integers(1, 20)),
        "make_vocab_size_divisible_by": draw(st.sampled_from([1, 8])),
        "max_position_embeddings": 8,
        "qk_layernorm": family == "gemma3" or draw(st.booleans()),
        "activation": {"llama": "swiglu", "gemma3": "geglu"}.get(family, "gelu"),
        "share_embeddings_and_output_weights": draw(st.booleans()),
    }
    if family == "param_moe":
        fields |= {
            "normalization": "LayerNorm",
            "add_bias_linear": True,
            "position_embedding_type": "learned_absolute",
            "qk_layernorm": False,
        }
    if family in ("llama", "param_moe") and draw(st.booleans()):
        fields |= {
            "num_moe_experts": draw(st.integers(2, 5)),
            "moe_ffn_hidden_size": draw(st.integers(1, 4)),
            "moe_layer_freq": draw(st.integers(1, 2)),
            "first_k_dense_replace": draw(st.integers(0, 2)),
        }
        if family == "llama" and draw(st.booleans()):
            fields |= {
                "activation": draw(st.sampled_from(["swiglu", "gelu"])),
                "normalization": draw(st.sampled_from(["RMSNorm", "LayerNorm"])),
                "moe_router_score_function": "sigmoid",
                "moe_router_enable_expert_bias": draw(st.booleans()),
                "moe_shared_expert_intermediate_size": draw(st.sampled_from([None, 4])),
            }
    elif family == "llama" and draw(st.booleans()):
        fields |= {
            "activation": draw(st.sampled_from(["swiglu", "gelu"])),
            "normalization": draw(st.sampled_from(["RMSNorm", "LayerNorm"])),
            "add_bias_linear": draw(st.booleans()),
            "position_embedding_type": draw(st.sampled_from(["rope", "learned_absolute"])),
        }
    return ModelConfig(**fields)


@settings(deadline=None, max_examples=150)
@given(model=models())
def test_every_element_is_placed_once(model: ModelConfig) -> None:
    """Numbers 1, 2, 3, ... come back to their places, and theirs hold each number once."""
    table = tensor_table(model)
    ours, theirs = [spec.name for spec in table], [name for spec in table for name in spec.theirs]
    assert len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)
    total = 0
    for spec in table:
        numbers = torch.arange(1, spec.stored_numbers() + 1).view(spec.shape)
        parts = split(spec, numbers)
        assert [tuple(part.shape) for part in parts] == spec.shapes()
        kept = numbers[: len(numbers) - spec.padding()]
        assert torch.equal(torch.cat([part.flatten() for part in parts]).sort().values, kept.flatten())
        back = merge(spec, parts)
        assert torch.equal(back[: len(kept)], kept) and not back[len(kept) :].any()
        if "expert_bias" not in spec.name:  # No parameter: it is not trained.
            total += kept.numel()
    assert total == count_parameters(model).total
    assert padded_vocab_size(model) - model.vocab_size == table[0].padding()


def test_qkv_by_hand() -> None:
    model = ModelConfig(
        num_layers=1, hidden_size=4, ffn_hidden_size=1, num_attention_heads=4, num_query_groups=2,
        kv_channels=1, vocab_size=1, max_position_embeddings=1,
    )  # fmt: skip
    assert kv_channels(model) == 1
    spec = qkv("ours", ("q", "k", "v"), (), model)
    # Two groups of [query, query, key, value].
    q, k, v = split(spec, torch.arange(8))
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1, 4, 5], [2, 6], [3, 7])
    assert merge(spec, [q, k, v]).tolist() == list(range(8))


def test_names_of_a_layer_with_experts() -> None:
    model = ModelConfig(
        num_layers=1, hidden_size=4, ffn_hidden_size=3, num_attention_heads=2, vocab_size=4,
        max_position_embeddings=1, num_moe_experts=2, qk_layernorm=True,
    )  # fmt: skip
    found = {spec.name: spec.theirs for spec in tensor_table(model)}
    layer, theirs = "decoder.layers.0.", "model.layers.0."
    assert found[layer + "mlp.experts.linear_fc1.weight1"] == (
        theirs + "mlp.experts.1.gate_proj.weight",
        theirs + "mlp.experts.1.up_proj.weight",
    )
    assert found[layer + "pre_mlp_layernorm.weight"] == (theirs + "post_attention_layernorm.weight",)


def test_padding_is_the_end() -> None:
    spec = TensorSpec("a", (4, 2), ("b",), ())
    assert spec.padding() == 4 and spec.shapes() == [(0, 2)]


def test_every_family_has_a_table() -> None:
    assert set(FAMILIES) <= set(known_families())
