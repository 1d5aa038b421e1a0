"""The layout in which Param-2 was published, and which vLLM's Param2MoEForCausalLM reads.

Its names and settings, read off vllm/model_executor/models/param2moe.py (vLLM pull request 38000) and the
published config.json. The model is one of the llama family's; this is another spelling of it. No torch here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.errors import UserError
from recipes.families.blocks import Q_K_V, Table
from recipes.families.family import Architecture
from recipes.families.hugging_face import (
    MOST_EXPERTS,
    auto_map,
    class_keys,
    dropout,
    experts,
    layer_count,
    remote_code,
    rms_norm,
    rms_norm_keys,
    rotary,
    rotary_keys,
)
from recipes.families.model_config import ModelConfig, expert_width, moe_layers
from recipes.families.tensors import Rows, TensorSpec
from recipes.families.values import Values

NAME = "param2moe"
PARAM2MOE = remote_code("Param2MoE", NAME, Path(__file__).parent / "remote_code" / f"modeling_{NAME}.py")
RENAMED = (
    ("model.embed_tokens.", "model.word_embeddings."),
    (".self_attn.o_proj.", ".attention.dense."),
    (".self_attn.q_norm.", ".attention.query_layernorm."),
    (".self_attn.k_norm.", ".attention.key_layernorm."),
    (".mlp.gate.e_score_correction_bias", ".mlp.gate.expert_bias"),
)


def architecture(model: ModelConfig) -> Architecture:
    """The class that computes exactly this model.

    Raises:
        UserError: it does not; the message names the setting.
    """
    for key, value in (
        ("position_embedding_type", "rope"),
        ("normalization", "RMSNorm"),
        ("activation", "swiglu"),
        ("add_bias_linear", False),
        ("window_size", None),
        ("rotary_percent", 1.0),
        ("moe_layer_freq", 1),
        ("moe_router_score_function", "sigmoid"),
    ):
        _refuse_unless(getattr(model, key) == value, model, key)
    _refuse_unless(any(moe_layers(model)), model, "num_moe_experts")
    return PARAM2MOE


def _refuse_unless(fits: bool, model: ModelConfig, key: str) -> None:
    if not fits:
        raise UserError(f"model.{key}={getattr(model, key)}: the layout {NAME} cannot say that")


def renamed(table: Table) -> Table:
    """The llama family's table with this layout's names, and queries, keys and values in one tensor."""
    return [_renamed(_fused(spec)) for spec in table]


def _renamed(spec: TensorSpec) -> TensorSpec:
    names = spec.theirs
    for old, new in RENAMED:
        names = tuple(name.replace(old, new) for name in names)
    return replace(spec, theirs=names)


def _fused(spec: TensorSpec) -> TensorSpec:
    """[queries; keys; values], each of all groups, as one tensor."""
    endings = tuple(f"{name}.weight" for name in Q_K_V)
    if len(spec.theirs) != len(endings) or not spec.theirs[0].endswith(endings[0]):
        return spec
    rows = [shape[0] for shape in spec.shapes()]
    first = [sum(rows[:which]) for which in range(len(rows))]
    runs = [Rows(0, first[run.which] + run.start, run.place, run.count) for run in spec.runs]
    name = spec.theirs[0].removesuffix(endings[0]) + "attention.query_key_value.weight"
    return replace(spec, theirs=(name,), runs=tuple(runs))


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json besides those that every class has."""
    shared, width = model.moe_shared_expert_intermediate_size or 0, expert_width(model)
    keys = class_keys(model) | rms_norm_keys(model) | rotary_keys(model) | auto_map(PARAM2MOE)
    del keys["attention_bias"]
    return keys | {
        # vLLM's class hands rope_theta on as "base", where its rotation does not look for it; here it does.
        "rope_scaling": keys["rope_parameters"],
        "hidden_act": "silu",
        "use_qk_norm": model.qk_layernorm,
        "use_qkv_bias": False,
        "use_bias": False,
        "num_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "moe_intermediate_size": width,
        "num_shared_experts": -(-shared // width),
        "moe_shared_expert_intermediate_size": shared,
        "first_k_dense_replace": model.first_k_dense_replace,
        "n_group": 1,
        "topk_group": 1,
        # megatron-core leaves the score of a single expert as it is.
        "norm_topk_prob": model.moe_router_topk > 1,
        "score_function": "sigmoid",
        "router_dtype": "fp32",
        "moe_router_enable_expert_bias": model.moe_router_enable_expert_bias,
        "routed_scaling_factor": model.moe_router_topk_scaling_factor or 1.0,
        "num_nextn_predict_layers": 0,
    }


def from_hugging_face(values: Values) -> dict[str, Any]:
    """Fields of ModelConfig besides those that every class has."""
    values.choice("hidden_act", ("silu", "swish"), "silu")
    values.choice("score_function", ("sigmoid",), "sigmoid")
    values.choice("router_dtype", ("fp32",), "fp32")
    for key in ("use_qkv_bias", "use_bias"):
        if values.flag(key, False):
            values.refuse(key, "no family here computes that")
    if not values.flag("use_rmsnorm", True):
        values.refuse("use_rmsnorm", "no family here computes that")
    if values.number("partial_rotary_factor", 1.0) != 1.0:
        values.refuse("partial_rotary_factor", "no family here computes that")
    # Looked up so that they count as read: windows are never on, stored layers that predict further tokens
    # show up as extra tensors, and the last is for training.
    for key in ("max_window_layers", "num_nextn_predict_layers", "mtp_loss_scaling_factor"):
        values.content.get(key)
    layers, routed = layer_count(values), experts(values, "num_experts")
    if values.flag("norm_topk_prob", True) != (routed["moe_router_topk"] > 1):
        values.refuse("norm_topk_prob", "weights are normed for several experts, and not for a single one")
    scaling = values.number("routed_scaling_factor", 1.0)
    return {
        "share_embeddings_and_output_weights": values.flag("tie_word_embeddings", False),
        **rms_norm(values),
        **rotary(values, 600000.0),
        **routed,
        "qk_layernorm": values.flag("use_qk_norm", True),
        "hidden_dropout": _same_dropout(values),
        "moe_ffn_hidden_size": values.count("moe_intermediate_size"),
        "moe_shared_expert_intermediate_size": _shared_width(values) or None,
        "first_k_dense_replace": values.count("first_k_dense_replace", 1, least=0, most=layers),
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": values.flag("moe_router_enable_expert_bias", True),
        "moe_router_topk_scaling_factor": scaling if scaling != 1.0 else None,
    }


def _shared_width(values: Values) -> int:
    """As vLLM: the one key has the width of all; without it there are so many of the routed ones' width."""
    number = values.count("num_shared_experts", 1, least=0, most=MOST_EXPERTS)
    each = values.count("moe_intermediate_size")
    total = values.count("moe_shared_expert_intermediate_size", number * each, least=0)
    return total if number else 0


def _same_dropout(values: Values) -> float:
    """Embeddings and sub-layers share one probability here."""
    shares = {key: dropout(values, key) for key in ("embedding_dropout", "output_dropout")}
    if len(set(shares.values())) > 1:
        values.refuse(
            "output_dropout", f"embedding_dropout is {shares['embedding_dropout']:g}; make them equal"
        )
    return shares["embedding_dropout"]
