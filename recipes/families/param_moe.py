"""PARAM MoE (Project-PARAM): a GPT with learned positions whose even layers hold a mixture of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.checks import refuse
from recipes.families.blocks import (
    Table,
    attention,
    final_norm,
    mlp,
    norm,
    routed_experts,
    router,
    whole_model,
)
from recipes.families.family import Architecture, Family
from recipes.families.hugging_face import (
    auto_map,
    dropout,
    epsilon,
    expert_layers,
    experts,
    layer_count,
    remote_code,
)
from recipes.families.model_config import ModelConfig, expert_width, moe_layers
from recipes.families.settings import EXPERTS, NOISY_ROUTER, NORMAL_INIT
from recipes.families.values import Values

PARAM_MOE = remote_code(
    "ParamMoe", "param_moe", Path(__file__).parent / "remote_code" / "modeling_param_moe.py"
)


def check(model: ModelConfig) -> None:
    """
    Raises:
        UserError: a loss on the experts' loads, although every expert is always chosen.
    """
    if model.moe_router_topk == model.num_moe_experts and model.moe_load_loss_coeff:
        refuse("model.moe_load_loss_coeff", model.moe_load_loss_coeff, "every expert is always chosen; set 0")


def tensors(model: ModelConfig) -> Table:
    """Every tensor, in layer order."""
    return whole_model(model, _layer, final_norm(model))


def _layer(model: ModelConfig, layer: int) -> Table:
    table = norm("self_attention.linear_qkv.layer_norm_", "input_layernorm.", model) + attention(model)
    if not moe_layers(model)[layer]:
        table += norm("mlp.linear_fc1.layer_norm_", "post_attention_layernorm.", model)
        return table + mlp(model)
    table += norm("pre_mlp_layernorm.", "post_attention_layernorm.", model)
    table.append(router(model, "mlp.router.weight", "mlp.gate.weight"))
    table.append(router(model, "mlp.router.noise_weight", "mlp.noise_gate.weight"))
    return table + routed_experts(model, "mlp.experts.{expert}.")


def architecture(model: ModelConfig) -> Architecture:
    """transformers has no class for it."""
    return PARAM_MOE


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json besides those that every class has."""
    return auto_map(PARAM_MOE) | {
        "layer_norm_eps": model.layernorm_epsilon,
        "num_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "moe_intermediate_size": expert_width(model),
        "moe_layers": [layer for layer, is_moe in enumerate(moe_layers(model)) if is_moe],
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.init_method_std,
    }


def _from_param_moe(values: Values) -> dict[str, Any]:
    layers = layer_count(values)
    fields: dict[str, Any] = {
        "activation": "gelu",
        "normalization": "LayerNorm",
        **epsilon(values, "layer_norm_eps", 1e-5),
        "add_bias_linear": True,
        "position_embedding_type": "learned_absolute",
        "hidden_dropout": dropout(values, "hidden_dropout"),
    }
    mixtures = values.numbers_of_layers("moe_layers", layers)
    if not mixtures:
        return fields
    return {
        **fields,
        **experts(values, "num_experts"),
        **expert_layers(values, "moe_layers", mixtures, layers),
        "moe_ffn_hidden_size": values.count("moe_intermediate_size"),
    }


FAMILY = Family(
    name="param_moe",
    layers="recipes.model.families.param_moe",
    tensors=tensors,
    settings=NORMAL_INIT | EXPERTS | NOISY_ROUTER,
    choices={
        "activation": ("gelu",),
        "normalization": ("LayerNorm",),
        "add_bias_linear": (True,),
        "position_embedding_type": ("learned_absolute",),
        "qk_layernorm": (False,),
        "share_embeddings_and_output_weights": (False,),
    },
    check=check,
    unused_megatron_fields=("moe_input_jitter_eps", "moe_router_force_load_balancing"),
    routers_draw_noise=True,
    architecture=architecture,
    to_hugging_face=to_hugging_face,
    from_hugging_face={"param_moe": _from_param_moe},
)
