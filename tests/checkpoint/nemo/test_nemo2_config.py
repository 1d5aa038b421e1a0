"""From NeMo 2's model.yaml to our description."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from recipes.checkpoint.nemo.nemo2_config import from_nemo2_config
from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.support.nemo_files import FIXTURES

# Param-2 17B-A2.4B (shared facts): as NeMo 2 writes such a model's fields.
PARAM_2 = {
    "num_layers": 21,
    "hidden_size": 2048,
    "ffn_hidden_size": 9216,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 64,
    "qk_layernorm": True,
    "layernorm_epsilon": 1e-6,
    "rotary_base": 500000,
    "share_embeddings_and_output_weights": True,
    "seq_length": 32768,
    "init_method_std": 0.014,
    "num_moe_experts": 64,
    "moe_ffn_hidden_size": 2048,
    "moe_layer_freq": "([0]*1+[1]*20)",
    "moe_router_topk": 6,
    "moe_router_score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "moe_router_bias_update_rate": 0.001,
    "moe_router_topk_scaling_factor": 2.5,
    "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_aux_loss_coeff": 0.001,
    "moe_router_num_groups": 1,
    "moe_router_group_topk": 1,
    "moe_shared_expert_intermediate_size": 4096,
}


def document(**changes: Any) -> dict[str, Any]:
    """The fixture's model.yaml with fields changed; a value of ``...`` removes the field."""
    path = FIXTURES / "nemo2_local" / "ckpt" / "context" / "model.yaml"
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    config = {**loaded["config"], **changes}
    return {**loaded, "config": {key: value for key, value in config.items() if value is not ...}}


def read(**changes: Any) -> ModelConfig:
    model = from_nemo2_config(document(**changes), tokenizer_vocab_size=448, stored_rows=512)
    validate_model(model)
    return model


def test_the_fixture() -> None:
    assert read() == ModelConfig(
        num_layers=4,
        hidden_size=64,
        ffn_hidden_size=192,
        num_attention_heads=4,
        num_query_groups=2,
        vocab_size=448,
        make_vocab_size_divisible_by=512,
        max_position_embeddings=64,
    )


def test_experts_as_param_2_has_them() -> None:
    model = read(**PARAM_2)
    assert (model.first_k_dense_replace, model.moe_layer_freq) == (1, 1)
    assert model.max_position_embeddings == 32768 and model.num_layers == 21
    for key in PARAM_2.keys() - {
        "moe_layer_freq",
        "seq_length",
        "moe_router_num_groups",
        "moe_router_group_topk",
    }:
        assert getattr(model, key) == PARAM_2[key], key


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(1, (1, 0)), (2, (2, 0)), ([0, 1, 1, 1], (1, 1)), ([1, 1, 1, 1], (1, 0)), ("[0]*2+[1]*2", (1, 2))],
)
def test_patterns_of_experts(pattern: Any, expected: tuple[int, int]) -> None:
    model = read(num_moe_experts=4, moe_layer_freq=pattern)
    assert (model.moe_layer_freq, model.first_k_dense_replace) == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_moe_experts": 4, "moe_layer_freq": [1, 0, 1, 0]}, "moe_layer_freq"),
        ({"num_moe_experts": 4, "moe_layer_freq": "__import__('os').system('true')"}, "moe_layer_freq"),
        ({"num_moe_experts": 4, "moe_layer_freq": "[0]*999999+[1]*999999"}, "moe_layer_freq"),
        ({"layernorm_zero_centered_gamma": True}, "layernorm_zero_centered_gamma"),
        ({"multi_latent_attention": True}, "multi_latent_attention"),
        ({"add_qkv_bias": True}, "add_qkv_bias"),
        ({"window_size": [127, 5]}, "window_size"),
        ({"window_size": [127, 0], "window_attn_skip_freq": 2}, "window_attn_skip_freq"),
        ({"_target_": "nemo.collections.llm.gpt.model.gemma.GemmaConfig2B"}, "GemmaConfig2B"),
        ({"transformer_layer_spec": {"_target_": "nemo.x.gemma2_layer_spec"}}, "gemma2_layer_spec"),
        ({"moe_router_force_load_balancing": True, "num_moe_experts": 4}, "moe_router_force_load_balancing"),
        ({"moe_latent_size": 64, "num_moe_experts": 4}, "moe_latent_size=64"),
        ({"scale_factor": 8}, "scale_factor=8"),
        ({"qk_l2_norm": True}, "qk_l2_norm=True"),
        ({"normalization": "L2Norm"}, "L2Norm"),
        ({"activation_func": {"_target_": "os.system"}}, "os.system"),
        ({"gated_linear_unit": False}, "silu"),
        ({"position_embedding_type": "yarn"}, "yarn"),
        ({"_target_": "nemo.collections.llm.gpt.model.llama.Llama31Config8B"}, "Llama31Config8B"),
        ({"seq_length": ...}, "seq_length"),
        ({"num_layers": ...}, "num_layers"),
        ({"num_layers": "four"}, "num_layers"),
        ({"hidden_dropout": [1]}, "hidden_dropout"),
    ],
)
def test_what_is_not_computed_here_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        read(**changes)
    assert named in str(caught.value) and "model.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file() -> None:
    with pytest.raises(UserError, match="not a mapping"):
        from_nemo2_config({"config": []}, tokenizer_vocab_size=1, stored_rows=1)


def test_a_window_of_all_layers_is_kept() -> None:
    """megatron-core counts the tokens to the left of the query, ours the query too."""
    model = read(window_size=[127, 0], _target_="nemo.collections.llm.gpt.model.mistral.MistralConfig7B")
    assert (model.window_size, model.window_pattern) == (128, "S")
    assert read(window_size=[-1, 0]) == read()


def test_a_fused_gelu_is_the_tanh_form() -> None:
    gelu = {"activation_func": "torch._C._nn.gelu", "gated_linear_unit": False, "add_bias_linear": True}
    assert read(**gelu, bias_activation_fusion=True).megatron == {"bias_activation_fusion": True}
    assert read(**gelu, bias_activation_fusion=False).megatron == {}
    assert read(bias_activation_fusion=True).megatron == {}, "a fused SwiGLU computes what a plain one does"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_transform": {"_target_": "nemo.collections.llm.peft.lora.LoRA"}}, "model_transform="),
        ({"_target_": "nemo.collections.llm.gpt.model.gemma.GemmaModel"}, "GemmaModel"),
    ],
)
def test_what_stands_beside_the_configuration_counts(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        from_nemo2_config({**document(), **changes}, tokenizer_vocab_size=448, stored_rows=512)
