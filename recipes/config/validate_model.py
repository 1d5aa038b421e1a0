"""Refuses architectures that cannot be built. No torch here."""

from __future__ import annotations

from recipes.config.checks import not_negative, one_of, positive, refuse
from recipes.config.megatron_fields import TRANSFORMER_CONFIG_FIELDS
from recipes.config.schema import ModelConfig
from recipes.model.accounting import kv_channels, num_query_groups

FAMILIES = ("llama",)

# TransformerConfig fields that our typed keys, or the run itself, decide.
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

# TransformerConfig fields that only take effect with layers or process groups that no family here has:
# megatron-core would take them and train something else.
UNUSED_MEGATRON_FIELDS = (
    "add_qkv_bias",
    "attention_output_gate",
    "context_parallel_size",
    "experimental_attention_variant",
    "expert_tensor_parallel_size",
    "heterogeneous_block_specs",
    "is_hybrid_model",
    "mtp_num_layers",
    "multi_latent_attention",
    "num_moe_experts",
    "pipeline_model_parallel_layout",
    "qk_l2_norm",
    "qk_layernorm",
    "virtual_pipeline_model_parallel_size",
)


def validate_model(model: ModelConfig) -> None:
    """Checks the architecture by itself."""
    if model.family not in FAMILIES:
        refuse("model.family", model.family, f"known families: {', '.join(FAMILIES)}")
    for key in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "vocab_size"):
        positive(f"model.{key}", getattr(model, key))
    positive("model.make_vocab_size_divisible_by", model.make_vocab_size_divisible_by)
    positive("model.max_position_embeddings", model.max_position_embeddings)
    for key in ("num_query_groups", "kv_channels"):
        value = getattr(model, key)
        if value is not None:
            positive(f"model.{key}", value)
    for key in ("layernorm_epsilon", "rotary_base"):
        positive(f"model.{key}", getattr(model, key))
    not_negative("model.init_method_std", model.init_method_std)
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
    one_of("model.activation", model.activation, ("swiglu", "gelu"))
    one_of("model.position_embedding_type", model.position_embedding_type, ("rope", "learned_absolute"))
    for key in ("hidden_dropout", "attention_dropout"):
        if not 0.0 <= getattr(model, key) < 1.0:
            refuse(f"model.{key}", getattr(model, key), "must be at least 0 and below 1")
    for name in model.megatron:
        if name in OWNED_MEGATRON_FIELDS:
            refuse(
                f"model.megatron.{name}", model.megatron[name], f"set {OWNED_MEGATRON_FIELDS[name]} instead"
            )
        if name not in TRANSFORMER_CONFIG_FIELDS:
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                "megatron-core's TransformerConfig has no such field",
            )
        if name in UNUSED_MEGATRON_FIELDS or name.startswith("moe_"):
            refuse(
                f"model.megatron.{name}",
                model.megatron[name],
                f"the {model.family} family does not use it; remove it",
            )
