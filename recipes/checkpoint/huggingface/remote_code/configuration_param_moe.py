"""Configuration of PARAM MoE, for transformers with trust_remote_code=True."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class ParamMoeConfig(PretrainedConfig):
    """``moe_layers`` holds the numbers of the layers with a mixture of experts; the others are dense."""

    model_type = "param_moe"

    def __init__(
        self,
        vocab_size: int = 128002,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        num_key_value_heads: int = 12,
        head_dim: int = 64,
        max_position_embeddings: int = 1024,
        layer_norm_eps: float = 1e-5,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        moe_intermediate_size: int = 3072,
        moe_layers: list[int] | None = None,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.moe_layers = moe_layers or []
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
