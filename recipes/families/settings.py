"""Groups of ModelConfig's keys, from which a family lists those that it uses. No torch here."""

from __future__ import annotations

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
