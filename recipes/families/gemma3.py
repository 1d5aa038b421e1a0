"""Gemma 3's text architecture (Gemma Team 2025, arXiv 2503.19786, section 2), as transformers computes it."""

from __future__ import annotations

from typing import Any

from recipes.families.blocks import Table, attention, final_norm, mlp, norm, qk_norms, whole_model
from recipes.families.family import Architecture, Family
from recipes.families.hugging_face import (
    check_head_count,
    class_keys,
    layer_count,
    rms_norm,
    rms_norm_keys,
    rotary_base,
    shortest_period,
    stated_once,
)
from recipes.families.model_config import ModelConfig, kv_channels, window_pattern
from recipes.families.settings import NORMAL_INIT, ROTARY, WINDOWS
from recipes.families.values import Values

GEMMA3 = Architecture("Gemma3ForCausalLM", "gemma3_text")


def tensors(model: ModelConfig) -> Table:
    """Every tensor, in layer order."""
    return whole_model(model, _layer, final_norm(model))


def _layer(model: ModelConfig, layer: int) -> Table:
    norms = {
        "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
        "self_attention.linear_proj.post_layernorm.": "post_attention_layernorm.",
        "mlp.linear_fc1.layer_norm_": "pre_feedforward_layernorm.",
        "mlp.linear_fc2.post_layernorm.": "post_feedforward_layernorm.",
    }
    table = [spec for ours, theirs in norms.items() for spec in norm(ours, theirs, model)]
    return table + attention(model) + qk_norms(model) + mlp(model)


def architecture(model: ModelConfig) -> Architecture:
    """
    Raises:
        UserError: transformers' class refuses the number of heads.
    """
    check_head_count(model)
    return GEMMA3


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json besides those that every class has."""
    base = float(model.rotary_base)
    local = float(model.rotary_base_local or model.rotary_base)
    kinds = {True: "full_attention", False: "sliding_attention"}
    return (
        class_keys(model)
        | rms_norm_keys(model)
        | {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": kv_channels(model),
            "sliding_window": model.window_size or model.max_position_embeddings,
            "layer_types": [kinds[window is None] for window in window_pattern(model)],
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "rope_theta": base,
            "rope_local_base_freq": local,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": base},
                "sliding_attention": {"rope_type": "default", "rope_theta": local},
            },
        }
    )


def _from_gemma3(values: Values) -> dict[str, Any]:
    values.choice("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    width = values.count("head_dim", 256)
    if values.number("query_pre_attn_scalar", 256.0) != width:
        values.refuse(
            "query_pre_attn_scalar", f"differs from head_dim, {width}; no family here computes that"
        )
    pattern = _pattern(values, layer_count(values))
    windowed = "S" in pattern
    window = values.count("sliding_window", 4096)
    rope = values.mapping("rope_parameters")
    full, sliding = rope.mapping("full_attention"), rope.mapping("sliding_attention")
    for parameters in (full, sliding):
        parameters.choice("rope_type", ("default",), "default")
    if values.has("rope_scaling"):
        values.refuse("rope_scaling", "no family here computes that")
    base = rotary_base(stated_once("rope_theta", values, full), "rope_theta", 1e6)
    local = _local_base(values, sliding)
    return {
        **rms_norm(values),
        "activation": "geglu",
        "qk_layernorm": True,
        "kv_channels": width,
        "share_embeddings_and_output_weights": values.flag("tie_word_embeddings", True),
        "rotary_base": base,
        "rotary_base_local": local if windowed else None,
        "window_size": window if windowed else None,
        "window_pattern": pattern if windowed else None,
    }


def _local_base(values: Values, sliding: Values) -> int:
    """The windowed layers' base: transformers reads one key before version 5, another from then on."""
    older = rotary_base(values, "rope_local_base_freq", 1e4)
    if not sliding.has("rope_theta"):
        return older
    base = rotary_base(sliding, "rope_theta", 1e4)
    if values.has("rope_local_base_freq") and base != older:
        values.refuse("rope_local_base_freq", f"{sliding.name} says rope_theta={base}; make them equal")
    return base


def _pattern(values: Values, layers: int) -> str:
    """S and L by layer, as the shortest pattern to tile. transformers uses the period only without a list."""
    key = "sliding_window_pattern" if values.has("sliding_window_pattern") else "_sliding_window_pattern"
    period = values.count(key, 6)
    kinds = values.content.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if (n + 1) % period else "full_attention" for n in range(layers)]
    letters = {"sliding_attention": "S", "full_attention": "L"}
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(isinstance(kind, str) and kind in letters for kind in kinds)
    ):
        values.refuse("layer_types", f"must name the attention of each of the {layers} layers")
    return shortest_period("".join(letters[kind] for kind in kinds))


FAMILY = Family(
    name="gemma3",
    layers="recipes.model.families.gemma3",
    tensors=tensors,
    settings=ROTARY | {"rotary_base_local"} | WINDOWS | NORMAL_INIT,
    choices={
        "activation": ("geglu",),
        "normalization": ("RMSNorm",),
        "add_bias_linear": (False,),
        "position_embedding_type": ("rope",),
        "qk_layernorm": (True,),
        "rotary_percent": (1.0,),
    },
    refused_megatron_fields={"flash_decode": "decodes with a single rotary base"},
    megatron_fields={"layernorm_zero_centered_gamma": True},
    architecture=architecture,
    to_hugging_face=to_hugging_face,
    from_hugging_face={"gemma3_text": _from_gemma3},
)
