"""The lean forward pass equals the GPTModel's at every position, for every family."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.families.family import known_families
from recipes.families.model_config import ModelConfig
from recipes.inference.decode.weights import Unknown, read_weights
from tests.support.decode_cases import assert_every_position_agrees, tiny_model
from tests.support.huggingface_models import CASES, LLAMA, PARAM_MOE

pytestmark = pytest.mark.usefixtures("engine")

MORE = {
    "gelu_and_biases": replace(LLAMA, activation="gelu", add_bias_linear=True, normalization="LayerNorm"),
    "qk_layer_norms": replace(LLAMA, qk_layernorm=True, normalization="LayerNorm", rotary_percent=0.5),
    "learned_positions": replace(LLAMA, position_embedding_type="learned_absolute"),
    "softmax_scale": replace(LLAMA, megatron={"softmax_scale": 0.4}),
    "window_of_one_layer": replace(LLAMA, window_size=7, window_pattern="LS"),
    "gated_shared_expert": replace(
        CASES["qwen3_moe"], moe_shared_expert_intermediate_size=32, megatron={"moe_shared_expert_gate": True}
    ),
}


def test_every_family_is_compared() -> None:
    assert {model.family for model in CASES.values()} == set(known_families())


@pytest.mark.parametrize("name", CASES | MORE)
def test_every_position_agrees(name: str) -> None:
    model = (CASES | MORE)[name]
    gpt = tiny_model(model)
    for chunk in (6, 64):
        assert_every_position_agrees(gpt, model, chunk, tolerance=2e-5)


def test_weights_are_views() -> None:
    gpt = tiny_model(LLAMA)
    weights = read_weights(gpt, LLAMA.vocab_size)
    storages = {parameter.untyped_storage().data_ptr() for parameter in gpt.parameters()}
    layer = weights.layers[0]
    for tensor in (weights.words, weights.head, layer.qkv.weight, layer.output.weight, layer.input_norm.gain):
        assert tensor is not None and tensor.untyped_storage().data_ptr() in storages


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (replace(LLAMA, megatron={"rotary_interleaved": True}), "rotary_interleaved"),
        (
            replace(
                LLAMA, activation="gelu", add_bias_linear=True, megatron={"bias_activation_fusion": True}
            ),
            "bias_activation",
        ),
        (replace(PARAM_MOE, moe_expert_capacity_factor=1.0), "capacity"),
    ],
    ids=["rotary", "fused_gelu", "capacity"],
)
def test_what_is_not_computed_is_found(model: ModelConfig, reason: str) -> None:
    with pytest.raises(Unknown, match=reason):
        read_weights(tiny_model(model), model.vocab_size)
