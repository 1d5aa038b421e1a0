"""Parameters, FLOPs and memory of a described model, by arithmetic alone (no torch import)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipes.config.schema import ModelConfig, ParallelConfig

GATED_ACTIVATIONS = ("swiglu",)


@dataclass(frozen=True)
class ParameterCounts:
    total: int
    """Every trainable number, padded vocabulary rows not counted."""
    non_embedding: int
    """Without the input lookup tables and the output head."""
    active_per_token: int
    """What one token passes through: all of it for dense models."""


def kv_channels(model: ModelConfig) -> int:
    """Width of one attention head."""
    return model.kv_channels or model.hidden_size // model.num_attention_heads


def num_query_groups(model: ModelConfig) -> int:
    """Key-value heads."""
    return model.num_query_groups or model.num_attention_heads


def padded_vocab_size(model: ModelConfig) -> int:
    """Rows of the stored tables: a fixed multiple, independent of the parallel layout."""
    multiple = model.make_vocab_size_divisible_by
    return math.ceil(model.vocab_size / multiple) * multiple


def matrix_parameters_per_layer(model: ModelConfig) -> int:
    """Weights of one layer that are used in matrix products."""
    hidden = model.hidden_size
    queries = model.num_attention_heads * kv_channels(model)
    keys_values = 2 * num_query_groups(model) * kv_channels(model)
    fc1_width = model.ffn_hidden_size * (2 if model.activation in GATED_ACTIVATIONS else 1)
    attention = hidden * (queries + keys_values) + queries * hidden
    return attention + hidden * fc1_width + model.ffn_hidden_size * hidden


def _vector_parameters_per_layer(model: ModelConfig) -> int:
    """Norm gains and biases of one layer."""
    hidden = model.hidden_size
    vectors = 2 * hidden * (2 if model.normalization == "LayerNorm" else 1)
    if model.add_bias_linear:
        queries = model.num_attention_heads * kv_channels(model)
        keys_values = 2 * num_query_groups(model) * kv_channels(model)
        fc1_width = model.ffn_hidden_size * (2 if model.activation in GATED_ACTIVATIONS else 1)
        vectors += queries + keys_values + hidden + fc1_width + hidden
    return vectors


def parameters_per_part(model: ModelConfig) -> dict[str, int]:
    """Parameters of each kind of tensor, padded vocabulary rows not counted; together the whole model."""
    hidden, layers = model.hidden_size, model.num_layers
    queries = model.num_attention_heads * kv_channels(model)
    attention = hidden * (queries + 2 * num_query_groups(model) * kv_channels(model)) + queries * hidden
    parts = {"word embeddings": model.vocab_size * hidden}
    if model.position_embedding_type == "learned_absolute":
        parts["position embeddings"] = model.max_position_embeddings * hidden
    parts[f"attention ({layers} layers)"] = layers * attention
    parts[f"MLP ({layers} layers)"] = layers * (matrix_parameters_per_layer(model) - attention)
    final_norm = hidden * (2 if model.normalization == "LayerNorm" else 1)
    parts["norms and biases"] = layers * _vector_parameters_per_layer(model) + final_norm
    if not model.share_embeddings_and_output_weights:
        parts["output head"] = model.vocab_size * hidden
    return parts


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Parameters of the whole model. Param-1 2.9B: 2,860,648,448."""
    parts = parameters_per_part(model)
    total = sum(parts.values())
    tables = ("word embeddings", "position embeddings", "output head")
    outside = sum(parts.get(name, 0) for name in tables)
    return ParameterCounts(total=total, non_embedding=total - outside, active_per_token=total)


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Training FLOPs (forward and backward) per token.

    6 x parameters in matrix products (output head once, input lookup not) + 12 x attention width x context
    per layer, the full context, not halved for causality: appendix B of PaLM (arXiv 2204.02311).
    """
    matrices = model.num_layers * matrix_parameters_per_layer(model) + model.vocab_size * model.hidden_size
    attention_width = model.num_attention_heads * kv_channels(model)
    return 6 * matrices + model.num_layers * 12 * attention_width * seq_length


def expected_memory_bytes(
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    micro_batch_size: int,
    seq_length: int,
    data_parallel_size: int,
    bf16: bool,
) -> dict[str, int]:
    """Expected memory of the fullest device (the first pipeline stage, or the last where it is larger).

    Weights, gradients (fp32), optimizer state (two moments, and fp32 master weights under bf16; divided over
    data-parallel ranks) and activations without recomputation, the latter after
    Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2) without its 5as/h attention-matrix term, since SDPA and
    flash kernels do not store it. An estimate; fragmentation and buffers are not in it.
    """
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    hidden, padded = model.hidden_size, padded_vocab_size(model)
    layers_here = math.ceil(model.num_layers / pp)
    per_layer = matrix_parameters_per_layer(model) // tp + _vector_parameters_per_layer(model)
    one_table = pp > 1 or model.share_embeddings_and_output_weights
    tables = padded * hidden // tp * (1 if one_table else 2)
    parameters = layers_here * per_layer + tables
    bytes_per_weight = 2 if bf16 else 4
    optimizer = parameters * (12 if bf16 else 8) // data_parallel_size
    tokens = micro_batch_size * seq_length
    in_flight = min(pp, 8)  # 1F1B keeps as many micro-batches alive on the first stage as there are stages.
    # Bytes per token and layer at 2 bytes a number: 34h; 10h of them are split by sequence parallel only.
    split = 34 if parallel.sequence_parallel else 24
    activation = hidden * (split / tp + (34 - split)) * (bytes_per_weight / 2)
    logits = tokens * padded // tp * (bytes_per_weight + 4)
    return {
        "weights": parameters * bytes_per_weight,
        "gradients": parameters * 4,
        "optimizer": optimizer,
        "activations": int(tokens * activation * layers_here * in_flight) + logits,
    }
