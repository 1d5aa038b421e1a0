"""What each model family can be told, without torch: which settings it uses and which layouts it cannot have.

The layers themselves are in recipes/model/families, one file per family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recipes.config.checks import refuse
from recipes.config.schema import ModelConfig, ParallelConfig

COMMON_SETTINGS = frozenset(
    {
        "family",
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "kv_channels",
        "vocab_size",
        "make_vocab_size_divisible_by",
        "max_position_embeddings",
        "normalization",
        "layernorm_epsilon",
        "activation",
        "add_bias_linear",
        "position_embedding_type",
        "qk_layernorm",
        "share_embeddings_and_output_weights",
        "hidden_dropout",
        "attention_dropout",
        "megatron",
    }
)
ROTARY = frozenset({"rotary_base", "rotary_percent"})
WINDOWS = frozenset({"window_size", "window_pattern"})
NORMAL_INIT = frozenset(
    {"init_method", "init_method_std", "embedding_init_method_std", "use_scaled_init_method"}
)
EXPERTS = frozenset(
    {
        "num_moe_experts",
        "moe_ffn_hidden_size",
        "moe_router_topk",
        "moe_layer_freq",
        "first_k_dense_replace",
        "moe_expert_capacity_factor",
    }
)
ROUTER = frozenset(
    {
        "moe_shared_expert_intermediate_size",
        "moe_router_score_function",
        "moe_router_pre_softmax",
        "moe_router_topk_scaling_factor",
        "moe_router_enable_expert_bias",
        "moe_router_bias_update_rate",
        "moe_router_load_balancing_type",
        "moe_aux_loss_coeff",
        "moe_z_loss_coeff",
    }
)
NOISY_ROUTER = frozenset({"moe_importance_loss_coeff", "moe_load_loss_coeff"})


@dataclass(frozen=True)
class FamilyRules:
    """What validation knows of a family."""

    settings: frozenset[str]
    """Keys of ModelConfig that the family uses beside the common ones; others must keep their defaults."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of which the family has only these values."""
    refused_layouts: Mapping[str, str] = field(default_factory=dict)
    """Sizes of ParallelConfig that must stay 1, and why."""
    unused_megatron_fields: tuple[str, ...] = ()
    """Fields of model.megatron that the family's own modules do not read, though megatron-core's do."""


FAMILY_RULES: dict[str, FamilyRules] = {
    "llama": FamilyRules(
        settings=ROTARY | WINDOWS | NORMAL_INIT | EXPERTS | ROUTER,
        choices={"activation": ("swiglu", "gelu")},
    ),
    "gemma3": FamilyRules(
        settings=ROTARY | {"rotary_base_local"} | WINDOWS | NORMAL_INIT,
        choices={
            "activation": ("geglu",),
            "normalization": ("RMSNorm",),
            "add_bias_linear": (False,),
            "position_embedding_type": ("rope",),
            "qk_layernorm": (True,),
            "rotary_percent": (1.0,),
        },
    ),
    "nano_hindi": FamilyRules(
        settings=frozenset({"rotary_base", "final_logit_softcapping"}) | WINDOWS,
        choices={
            "activation": ("squared_relu",),
            "normalization": ("RMSNorm",),
            "add_bias_linear": (False,),
            "position_embedding_type": ("rope",),
            "qk_layernorm": (True,),
            "share_embeddings_and_output_weights": (False,),
            "hidden_dropout": (0.0,),
            "attention_dropout": (0.0,),
        },
        refused_layouts={
            "pipeline_model_parallel_size": "every layer needs the embedding and the token ids, "
            "which a later stage does not have",
        },
    ),
    "param_moe": FamilyRules(
        settings=NORMAL_INIT | EXPERTS | NOISY_ROUTER,
        choices={
            "activation": ("gelu",),
            "normalization": ("LayerNorm",),
            "add_bias_linear": (True,),
            "position_embedding_type": ("learned_absolute",),
            "qk_layernorm": (False,),
            "share_embeddings_and_output_weights": (False,),
        },
        unused_megatron_fields=("moe_input_jitter_eps", "moe_router_force_load_balancing"),
    ),
}


def check_family_settings(model: ModelConfig) -> None:
    """Refuses settings that the family would ignore or cannot have.

    Raises:
        UserError: with the key, the value and the fix.
    """
    if model.family not in FAMILY_RULES:
        refuse("model.family", model.family, f"known families: {', '.join(FAMILY_RULES)}")
    rules = FAMILY_RULES[model.family]
    for setting in dataclasses.fields(ModelConfig):
        value = getattr(model, setting.name)
        if setting.name in COMMON_SETTINGS | rules.settings or value == setting.default:
            continue
        refuse(f"model.{setting.name}", value, f"the {model.family} family does not use it; remove it")
    for key, allowed in rules.choices.items():
        if getattr(model, key) not in allowed:
            fix = " or ".join(str(value) for value in allowed)
            refuse(f"model.{key}", getattr(model, key), f"the {model.family} family needs {fix}")


def check_family_layout(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Refuses layouts that the family cannot have, with the reason.

    Raises:
        UserError: with the key, the value and the reason.
    """
    for key, reason in FAMILY_RULES[model.family].refused_layouts.items():
        if getattr(parallel, key) != 1:
            refuse(f"parallel.{key}", getattr(parallel, key), f"{model.family}: {reason}; leave it at 1")
