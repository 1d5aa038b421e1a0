"""Configuration of nano_hindi, for transformers with trust_remote_code=True."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class NanoHindiConfig(PretrainedConfig):
    """The nanochat line of early 2026.

    ``layer_windows`` holds, for each layer, how many tokens it attends to, the query's own among them, or
    None for all; ``value_embedding_layers`` the numbers of the layers with a value embedding;
    ``logit_soft_cap`` the c of c * tanh(logits / c), or None.
    """

    model_type = "nano_hindi"

    def __init__(
        self,
        vocab_size: int = 68096,
        hidden_size: int = 384,
        intermediate_size: int = 1536,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 2,
        head_dim: int = 64,
        max_position_embeddings: int = 1024,
        rms_norm_eps: float = 1.1920929e-07,
        rope_theta: float = 10000.0,
        layer_windows: list[int | None] | None = None,
        value_embedding_layers: list[int] | None = None,
        logit_soft_cap: float | None = 15.0,
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
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.layer_windows = layer_windows or [None] * num_hidden_layers
        self.value_embedding_layers = value_embedding_layers or []
        self.logit_soft_cap = logit_soft_cap
        super().__init__(**kwargs)
