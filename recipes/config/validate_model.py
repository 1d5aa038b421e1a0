"""Refuses architectures that cannot be built. No torch here."""

from __future__ import annotations

import dataclasses

from recipes.checks import not_negative, one_of, positive, refuse
from recipes.config.foreign_keys import FOREIGN_VALUES
from recipes.config.megatron_fields import MEGATRON_CHOICES, TRANSFORMER_CONFIG_FIELDS
from recipes.config.stored_options import check_option
from recipes.families.family import Family, family_of, find_family, known_families
from recipes.families.model_config import ModelConfig, kv_channels, moe_layers, num_query_groups
from recipes.families.settings import COMMON_SETTINGS

ACTIVATIONS = ("swiglu", "geglu", "gelu", "squared_relu")
ROUTER_SCORES = ("softmax", "sigmoid")
LOAD_BALANCING = ("aux_loss", "seq_aux_loss", "none")
DEFAULTS = {setting.name: setting.default for setting in dataclasses.fields(ModelConfig)}
MOST_LAYERS = MOST_EXPERTS = 10_000
MOE_SETTINGS = [key for key in DEFAULTS if key.startswith("moe_") or key == "first_k_dense_replace"]

# TransformerConfig fields that are set through our typed keys or by the run itself.
OWNED_MEGATRON_FIELDS = {
    "num_layers": "model.num_layers",
    "hidden_size": "model.hidden_size",
    "ffn_hidden_size": "model.ffn_hidden_size",
    "num_attention_heads": "model.num_attention_heads",
    "num_query_groups": "model.num_query_groups",
    "kv_channels": "model.kv_channels",
    "normalization": "model.normalization",
    "layernorm_epsilon": "model.layernorm_epsilon",
    "gated_linear_unit": "model.activation",
    "activation_func": "model.activation",
    "add_bias_linear": "model.add_bias_linear",
    "init_method_std": "model.init_method_std",
    "hidden_dropout": "model.hidden_dropout",
    "attention_dropout": "model.attention_dropout",
    "qk_layernorm": "model.qk_layernorm",
    "window_size": "model.window_size",
    "window_attn_skip_freq": "model.window_pattern",
    "num_moe_experts": "model.num_moe_experts",
    **{key: f"model.{key}" for key in MOE_SETTINGS if key in TRANSFORMER_CONFIG_FIELDS},
    "moe_grouped_gemm": "nothing (it is on with Transformer Engine)",
    "transformer_impl": "nothing (Transformer Engine is used where it is installed)",
    # It counts groups by the layout, which is not part of a model.
    "moe_router_topk_limited_devices": "model.megatron.moe_router_num_groups and moe_router_group_topk",
    "context_parallel_size": "parallel.context_parallel_size",
    "expert_tensor_parallel_size": "parallel.expert_tensor_parallel_size",
    "num_layers_in_first_pipeline_stage": "parallel.num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage": "parallel.num_layers_in_last_pipeline_stage",
    "recompute_granularity": "parallel.recompute_granularity",
    "recompute_method": "parallel.recompute_method",
    "recompute_num_layers": "parallel.recompute_num_layers",
    "recompute_modules": "parallel.recompute_modules",
    "tensor_model_parallel_size": "parallel.tensor_model_parallel_size",
    "pipeline_model_parallel_size": "parallel.pipeline_model_parallel_size",
    "expert_model_parallel_size": "parallel.expert_model_parallel_size",
    "sequence_parallel": "parallel.sequence_parallel",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "params_dtype": "trainer.precision",
    "pipeline_dtype": "trainer.precision",
    "perform_initialization": "model.init_method_std",
    "init_method": "model.init_method_std",
    "output_layer_init_method": "model.use_scaled_init_method",
    "calculate_per_token_loss": "data.eod_mask_loss",
    "embedding_init_method": "model.init_method_std",
    "embedding_init_method_std": "model.init_method_std",
}

# TransformerConfig fields that take effect only with layers, process groups or a training loop that no family
# here has: megatron-core would accept them and train something else.
UNUSED_MEGATRON_FIELDS = (
    "add_qkv_bias",
    "attention_output_gate",
    "experimental_attention_variant",
    "heterogeneous_block_specs",
    "is_hybrid_model",
    "log_max_attention_logit",
    "moe_latent_size",
    "moe_use_legacy_grouped_gemm",
    "mtp_num_layers",
    "multi_latent_attention",
    "pipeline_model_parallel_layout",
    "qk_clip",
    "qk_clip_alpha",
    "qk_clip_threshold",
    "qk_l2_norm",
    "use_te_activation_func",
    "virtual_pipeline_model_parallel_size",
)

LOW_PRECISION = ("fp8", "fp4")
# Further fields for training in either, besides those whose names begin with it.
LOW_PRECISION_FIELDS = (
    "first_last_layers_bf16",
    "num_layers_at_end_in_bf16",
    "num_layers_at_start_in_bf16",
    "tp_only_amax_red",
)


def validate_model(model: ModelConfig) -> None:
    """Checks the architecture by itself.

    Raises:
        UserError: with the key, the value and the fix.
    """
    check_family_settings(model)
    if isinstance(model.vocab_size, str):
        refuse("model.vocab_size", model.vocab_size, "write a number, or auto and set tokenizer.model")
    for key in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size"):
        positive(f"model.{key}", getattr(model, key))
    if model.num_layers > MOST_LAYERS:  # The table of tensors has rows for each.
        refuse("model.num_layers", model.num_layers, f"no model has more than {MOST_LAYERS:,}")
    positive("model.make_vocab_size_divisible_by", model.make_vocab_size_divisible_by)
    positive("model.max_position_embeddings", model.max_position_embeddings)
    for key in ("num_query_groups", "kv_channels", "rotary_base_local", "final_logit_softcapping"):
        value = getattr(model, key)
        if value is not None:
            positive(f"model.{key}", value)
    for key in ("layernorm_epsilon", "rotary_base"):
        positive(f"model.{key}", getattr(model, key))
    not_negative("model.init_method_std", model.init_method_std)
    if model.embedding_init_method_std is not None:
        not_negative("model.embedding_init_method_std", model.embedding_init_method_std)
    if not 0 < model.rotary_percent <= 1:
        refuse("model.rotary_percent", model.rotary_percent, "must be above 0 and at most 1")
    heads = model.num_attention_heads
    if model.kv_channels is None and model.hidden_size % heads:
        refuse(
            "model.num_attention_heads",
            heads,
            f"does not divide model.hidden_size={model.hidden_size}; choose a divisor or set kv_channels",
        )
    if heads % num_query_groups(model):
        refuse("model.num_query_groups", num_query_groups(model), f"must divide num_attention_heads={heads}")
    if model.position_embedding_type == "rope" and kv_channels(model) % 2:
        refuse("model.kv_channels", kv_channels(model), "rotary embeddings need an even head width")
    one_of("model.normalization", model.normalization, ("RMSNorm", "LayerNorm"))
    one_of("model.activation", model.activation, ACTIVATIONS, FOREIGN_VALUES)
    one_of("model.init_method", model.init_method, ("normal", "kaiming_uniform"))
    one_of("model.position_embedding_type", model.position_embedding_type, ("rope", "learned_absolute"))
    for key in ("hidden_dropout", "attention_dropout"):
        if not 0.0 <= getattr(model, key) < 1.0:
            refuse(f"model.{key}", getattr(model, key), "must be at least 0 and below 1")
    _validate_windows(model)
    _validate_experts(model)
    family_of(model).check(model)
    _validate_megatron(model)


def check_family_settings(model: ModelConfig) -> None:
    """Refuses settings that the family would ignore or cannot have.

    Raises:
        UserError: with the key, the value and the fix.
    """
    family = family_of(model)
    for setting in dataclasses.fields(ModelConfig):
        value = getattr(model, setting.name)
        if setting.name in COMMON_SETTINGS | family.settings or value == setting.default:
            continue
        refuse(f"model.{setting.name}", value, f"the {family.name} family does not use it; remove it")
    for key, allowed in family.choices.items():
        if getattr(model, key) not in allowed:
            fix = " or ".join(str(value) for value in allowed)
            refuse(f"model.{key}", getattr(model, key), f"the {family.name} family needs {fix}")


def _families_that_set(field: str) -> list[str]:
    families: list[Family] = [find_family(name) for name in known_families()]
    return [family.name for family in families if field in family.megatron_fields]


def validate_positions(model: ModelConfig) -> None:
    """Refuses rotary settings without rotary positions, for a model that is to be trained.

    NeMo's files hold rotary settings whatever the positions are, so there they are not a mistake.
    """
    for key in ("rotary_base", "rotary_percent"):
        if model.position_embedding_type != "rope" and getattr(model, key) != DEFAULTS[key]:
            fix = f"would be ignored: position_embedding_type is {model.position_embedding_type}"
            refuse(f"model.{key}", getattr(model, key), fix)


def _validate_megatron(model: ModelConfig) -> None:
    """Checks the fields that are passed to megatron-core unchanged."""
    family = family_of(model)
    unused = (*UNUSED_MEGATRON_FIELDS, *family.unused_megatron_fields)
    for name in model.megatron:
        if name in OWNED_MEGATRON_FIELDS:
            refuse(
                f"model.megatron.{name}", model.megatron[name], f"set {OWNED_MEGATRON_FIELDS[name]} instead"
            )
        if owners := _families_that_set(name):
            fix = f"set nothing (it is on in the {' and '.join(owners)} family) instead"
            refuse(f"model.megatron.{name}", model.megatron[name], fix)
        if name in family.refused_megatron_fields and model.megatron[name]:
            fix = f"{family.refused_megatron_fields[name]}; remove it"
            refuse(f"model.megatron.{name}", model.megatron[name], fix)
        if name not in TRANSFORMER_CONFIG_FIELDS:
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                "megatron-core's TransformerConfig has no such field",
            )
        if name in unused or (name.startswith("moe_") and model.num_moe_experts is None):
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                f"the {model.family} family does not use it; remove it",
            )
        check_option(name, model.megatron[name])
        if model.megatron[name] is not None and name in MEGATRON_CHOICES:
            one_of(f"model.megatron.{name}", model.megatron[name], MEGATRON_CHOICES[name])
    _validate_low_precision(model)


def _validate_low_precision(model: ModelConfig) -> None:
    """Refuses settings of FP8 or FP4 that would be ignored because neither is on."""
    for name, value in model.megatron.items():
        formats = [format for format in LOW_PRECISION if name.startswith(f"{format}_")]
        if name in LOW_PRECISION_FIELDS:
            formats = list(LOW_PRECISION)
        if formats and all(model.megatron.get(format) is None for format in formats):
            fix = f"would be ignored: model.megatron.{' or '.join(formats)} is not set"
            refuse(f"model.megatron.{name}", value, fix)


def _validate_windows(model: ModelConfig) -> None:
    if (model.window_size is None) != (model.window_pattern is None):
        refuse(
            "model.window_size",
            model.window_size,
            f"model.window_pattern={model.window_pattern}: set both or neither",
        )
    if model.window_size is None or model.window_pattern is None:
        if model.rotary_base_local is not None:
            refuse("model.rotary_base_local", model.rotary_base_local, "would be ignored: no windows are set")
        return
    positive("model.window_size", model.window_size)
    if not model.window_pattern or set(model.window_pattern) - set("SL"):
        refuse("model.window_pattern", repr(model.window_pattern), "write S and L only, for example SSSL")


def _validate_experts(model: ModelConfig) -> None:
    if model.num_moe_experts is None:
        for key in MOE_SETTINGS:
            if getattr(model, key) != DEFAULTS[key]:
                refuse(
                    f"model.{key}", getattr(model, key), "would be ignored: model.num_moe_experts is not set"
                )
        return
    experts = model.num_moe_experts
    if experts > MOST_EXPERTS:
        refuse("model.num_moe_experts", experts, f"no model has more than {MOST_EXPERTS:,}")
    for key in ("num_moe_experts", "moe_router_topk", "moe_layer_freq", "moe_router_bias_update_rate"):
        positive(f"model.{key}", getattr(model, key))
    for key in (
        "moe_ffn_hidden_size",
        "moe_shared_expert_intermediate_size",
        "moe_router_topk_scaling_factor",
        "moe_expert_capacity_factor",
    ):
        if getattr(model, key) is not None:
            positive(f"model.{key}", getattr(model, key))
    if model.moe_z_loss_coeff is not None:
        not_negative("model.moe_z_loss_coeff", model.moe_z_loss_coeff)
    not_negative("model.first_k_dense_replace", model.first_k_dense_replace)
    for key in ("moe_aux_loss_coeff", "moe_importance_loss_coeff", "moe_load_loss_coeff"):
        not_negative(f"model.{key}", getattr(model, key))
    if model.moe_router_topk > experts:
        refuse("model.moe_router_topk", model.moe_router_topk, f"more than num_moe_experts={experts}")
    if not any(moe_layers(model)):
        refuse(
            "model.first_k_dense_replace",
            model.first_k_dense_replace,
            "leaves no layer with experts; lower it",
        )
    one_of("model.moe_router_score_function", model.moe_router_score_function, ROUTER_SCORES)
    one_of("model.moe_router_load_balancing_type", model.moe_router_load_balancing_type, LOAD_BALANCING)
    sigmoid = model.moe_router_score_function == "sigmoid"
    if model.moe_router_topk == 1 and not sigmoid and not model.moe_router_pre_softmax:
        fix = "the softmax over one chosen expert is always 1: set moe_router_pre_softmax, or choose more"
        refuse("model.moe_router_topk", 1, fix)
    if model.moe_router_enable_expert_bias and not sigmoid:
        refuse("model.moe_router_enable_expert_bias", True, "needs moe_router_score_function=sigmoid")
    if model.moe_router_pre_softmax and sigmoid:
        refuse("model.moe_router_pre_softmax", True, "would be ignored: the scores are sigmoid")
    rate = model.moe_router_bias_update_rate
    if rate != DEFAULTS["moe_router_bias_update_rate"] and not model.moe_router_enable_expert_bias:
        refuse(
            "model.moe_router_bias_update_rate", rate, "would be ignored: set moe_router_enable_expert_bias"
        )
    if model.moe_aux_loss_coeff and model.moe_router_load_balancing_type == "none":
        refuse(
            "model.moe_aux_loss_coeff", model.moe_aux_loss_coeff, "would be ignored: load balancing is none"
        )
