"""From a described model to megatron-core's GPTModel."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig
from torch import Tensor
from torch.nn.functional import gelu, silu

from recipes.config.schema import ModelConfig, ParallelConfig
from recipes.errors import UserError
from recipes.model.accounting import kv_channels, num_query_groups, padded_vocab_size
from recipes.model.backend import have_transformer_engine, spec_provider
from recipes.model.families import llama

FAMILY_BLOCK_SPECS = {"llama": llama.block_spec}


def transformer_config(model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype) -> TransformerConfig:
    """megatron-core's configuration of the described model under the layout.

    Raises:
        UserError: megatron-core refuses a value in ``model.megatron``.
    """
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    fields: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": num_query_groups(model),
        "kv_channels": kv_channels(model),
        "normalization": model.normalization,
        "layernorm_epsilon": model.layernorm_epsilon,
        "gated_linear_unit": model.activation == "swiglu",
        "activation_func": silu if model.activation == "swiglu" else gelu,
        "add_bias_linear": model.add_bias_linear,
        "init_method_std": model.init_method_std,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "sequence_parallel": parallel.sequence_parallel,
        "bf16": dtype == torch.bfloat16,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        # Our own initialisation follows, see recipes/model/init.py. Not perform_initialization=False:
        # megatron-core marks parameters as tensor-parallel while it initialises them.
        "init_method": _leave_as_is,
        "output_layer_init_method": _leave_as_is,
        # The sum of token losses is divided by the global batch's tokens, whatever the layout.
        "calculate_per_token_loss": True,
        # Their kernels come with Apex; Transformer Engine has its own.
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        "bias_activation_fusion": torch.cuda.is_available(),
        "bias_dropout_fusion": torch.cuda.is_available(),
        "apply_rope_fusion": have_transformer_engine(),
    }
    try:
        return TransformerConfig(**{**fields, **model.megatron})
    except (AssertionError, ValueError, TypeError) as error:
        raise UserError(f"model.megatron={model.megatron}: megatron-core refuses it: {error}") from error


def _leave_as_is(weight: Tensor) -> Tensor:
    return weight


def build_gpt_model(
    model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype, *, parallel_output: bool = True
) -> GPTModel:
    """This rank's part of the model, weights not initialised.

    ``parallel_output`` keeps logits split over the vocabulary among tensor-parallel ranks (training).
    """
    config = transformer_config(model, parallel, dtype)
    return GPTModel(
        config=config,
        transformer_layer_spec=FAMILY_BLOCK_SPECS[model.family](config, spec_provider()),
        vocab_size=padded_vocab_size(model),
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=parallel_output,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type=model.position_embedding_type,
        rotary_percent=model.rotary_percent,
        rotary_base=model.rotary_base,
    )
