"""transformers' Llama of a described model's shapes."""

from __future__ import annotations

from typing import Any

from recipes.errors import UserError
from recipes.families.family import family_of
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups


def llama_config(model: ModelConfig, **more: Any) -> Any:
    """A LlamaConfig.

    Args:
        more: further values of it.

    Raises:
        UserError: the model has layers that transformers' Llama does not.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if family_of(model).architecture(model).name != LlamaForCausalLM.__name__:
        raise UserError(f"model.family={model.family}: transformers' Llama has no such layers")
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=num_query_groups(model),
        head_dim=kv_channels(model),
        max_position_embeddings=model.max_position_embeddings,
        rms_norm_eps=model.layernorm_epsilon,
        tie_word_embeddings=model.share_embeddings_and_output_weights,
        attention_dropout=model.attention_dropout,
        **more,
    )
