"""Parameters, FLOPs and memory of a described model, by arithmetic alone (no torch import)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recipes.config.schema import ModelConfig, ParallelConfig
from recipes.model.layers import layer_windows, moe_layers, stage_sizes, value_embedding_layers

GATED_ACTIVATIONS = ("swiglu", "geglu")
# nano_hindi's value embeddings pass a gate that looks at the first so many channels.
VALUE_GATE_CHANNELS = 32


@dataclass(frozen=True)
class ParameterCounts:
    total: int
    """Every trainable number, padded vocabulary rows not counted."""
    non_embedding: int
    """Without the lookup tables (words, positions, value embeddings) and the output head."""
    active_per_token: int
    """Without the routed experts that one token does not pass through."""


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


def attention_matrices(model: ModelConfig) -> int:
    """Weights of one layer's query, key, value and output projections."""
    queries = model.num_attention_heads * kv_channels(model)
    keys_values = 2 * num_query_groups(model) * kv_channels(model)
    return model.hidden_size * (queries + keys_values) + queries * model.hidden_size


def mlp_matrices(model: ModelConfig, width: int) -> int:
    """Weights of one dense MLP, or one expert, of inner ``width``."""
    return model.hidden_size * width * (3 if model.activation in GATED_ACTIVATIONS else 2)


def mlp_biases(model: ModelConfig, width: int) -> int:
    """Biases of one dense MLP, or one expert."""
    if not model.add_bias_linear:
        return 0
    return width * (2 if model.activation in GATED_ACTIVATIONS else 1) + model.hidden_size


def expert_width(model: ModelConfig) -> int:
    """Inner width of one routed expert."""
    return model.moe_ffn_hidden_size or model.ffn_hidden_size


def expert_parameters(model: ModelConfig) -> int:
    """Weights and biases of one routed expert."""
    return mlp_matrices(model, expert_width(model)) + mlp_biases(model, expert_width(model))


def router_parameters(model: ModelConfig) -> int:
    """Weights of one router; the noisy one of param_moe has a second matrix for its noise."""
    return model.hidden_size * (model.num_moe_experts or 0) * (2 if model.family == "param_moe" else 1)


def norm_parameters(model: ModelConfig) -> int:
    """Gains and biases of one norm over the hidden size; nano_hindi's norms have none."""
    if model.family == "nano_hindi":
        return 0
    return model.hidden_size * (2 if model.normalization == "LayerNorm" else 1)


def attention_vectors(model: ModelConfig) -> int:
    """One layer's parameters around attention that are no matrices."""
    vectors = norm_parameters(model) * (4 if model.family == "gemma3" else 2)
    if model.qk_layernorm and model.family != "nano_hindi":
        vectors += 2 * kv_channels(model) * (2 if model.normalization == "LayerNorm" else 1)
    if model.add_bias_linear:
        vectors += model.hidden_size
        if model.family != "param_moe":  # Its query, key and value projections have no bias.
            vectors += (model.num_attention_heads + 2 * num_query_groups(model)) * kv_channels(model)
    if model.family == "nano_hindi":
        vectors += 2  # resid_lambda and x0_lambda
    return vectors


def parameters_per_part(model: ModelConfig) -> dict[str, int]:
    """Parameters of each kind of tensor, padded vocabulary rows not counted; together the whole model."""
    hidden, layers = model.hidden_size, model.num_layers
    experts, dense = sum(moe_layers(model)), layers - sum(moe_layers(model))
    with_values = sum(value_embedding_layers(model))
    keys = num_query_groups(model) * kv_channels(model)
    shared = mlp_matrices(model, model.moe_shared_expert_intermediate_size or 0)
    vectors = layers * attention_vectors(model) + norm_parameters(model)
    vectors += dense * mlp_biases(model, model.ffn_hidden_size)
    learned = model.position_embedding_type == "learned_absolute"
    routed = experts * (model.num_moe_experts or 0)
    parts = {
        "word embeddings": model.vocab_size * hidden,
        "position embeddings": model.max_position_embeddings * hidden if learned else 0,
        f"value embeddings ({with_values} layers)": with_values * model.vocab_size * keys,
        "value gates": with_values * VALUE_GATE_CHANNELS * num_query_groups(model),
        f"attention ({layers} layers)": layers * attention_matrices(model),
        f"MLP ({dense} layers)": dense * mlp_matrices(model, model.ffn_hidden_size),
        f"experts ({experts} layers of {model.num_moe_experts})": routed * expert_parameters(model),
        f"shared experts ({experts} layers)": experts * shared,
        f"routers ({experts} layers)": experts * router_parameters(model),
        "norms, biases, scalars": vectors,
        "output head": 0 if model.share_embeddings_and_output_weights else model.vocab_size * hidden,
    }
    return {name: count for name, count in parts.items() if count}


def layer_parameters(model: ModelConfig) -> list[int]:
    """Parameters of each layer, value embeddings with the layer that adds them."""
    shared = mlp_matrices(model, model.moe_shared_expert_intermediate_size or 0)
    experts = (model.num_moe_experts or 0) * expert_parameters(model) + shared + router_parameters(model)
    dense = mlp_matrices(model, model.ffn_hidden_size) + mlp_biases(model, model.ffn_hidden_size)
    groups = num_query_groups(model)
    values = model.vocab_size * groups * kv_channels(model) + VALUE_GATE_CHANNELS * groups
    return [
        attention_matrices(model)
        + attention_vectors(model)
        + (experts if is_moe else dense)
        + (values if has_values else 0)
        for is_moe, has_values in zip(moe_layers(model), value_embedding_layers(model), strict=True)
    ]


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Parameters of the whole model. Param-1 2.9B: 2,860,648,448."""
    parts = parameters_per_part(model)
    total = sum(parts.values())
    tables = ("word embeddings", "position embeddings", "value embeddings", "output head")
    outside = sum(count for name, count in parts.items() if name.startswith(tables))
    idle = sum(moe_layers(model)) * ((model.num_moe_experts or 0) - model.moe_router_topk)
    return ParameterCounts(
        total=total,
        non_embedding=total - outside,
        active_per_token=total - idle * expert_parameters(model),
    )


def flops_per_token(model: ModelConfig, seq_length: int) -> int:
    """Training FLOPs (forward and backward) per token.

    6 x parameters in matrix products (output head once, input lookup not, routed experts x top-k / experts)
    + 12 x attention width x context per layer, the full context, not halved for causality, a window as it is:
    appendix B of PaLM (arXiv 2204.02311).
    """
    experts = sum(moe_layers(model))
    per_expert = mlp_matrices(model, expert_width(model))
    shared = mlp_matrices(model, model.moe_shared_expert_intermediate_size or 0)
    matrices = model.vocab_size * model.hidden_size
    matrices += model.num_layers * attention_matrices(model)
    matrices += (model.num_layers - experts) * mlp_matrices(model, model.ffn_hidden_size)
    matrices += experts * (model.moe_router_topk * per_expert + shared + router_parameters(model))
    matrices += sum(value_embedding_layers(model)) * VALUE_GATE_CHANNELS * num_query_groups(model)
    attention_width = model.num_attention_heads * kv_channels(model)
    contexts = sum(min(window or seq_length, seq_length) for window in layer_windows(model))
    return 6 * matrices + 12 * attention_width * contexts


def kv_cache_bytes(model: ModelConfig, context: int, bytes_per_number: int = 2) -> int:
    """Keys and values that must be kept to continue a text of ``context`` tokens; windows keep no more."""
    per_token = 2 * num_query_groups(model) * kv_channels(model) * bytes_per_number
    return per_token * sum(min(window or context, context) for window in layer_windows(model))


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
    layers_here = max(stage_sizes(model, parallel))
    share = layers_here / model.num_layers
    parts = parameters_per_part(model)
    experts = sum(count for name, count in parts.items() if name.startswith("experts"))
    vectors = parts["norms, biases, scalars"]
    tables = ("word embeddings", "position embeddings", "value embeddings", "output head")
    matrices = sum(count for name, count in parts.items() if not name.startswith((*tables, "experts")))
    one_table = pp > 1 or model.share_embeddings_and_output_weights
    per_rank_tables = padded * hidden * (1 if one_table else 2)
    per_rank_tables += sum(count for name, count in parts.items() if name.startswith(tables[1:3]))
    routed = int(share * experts) // (
        parallel.expert_model_parallel_size * (parallel.expert_tensor_parallel_size or tp)
    )
    others = int(share * (matrices - vectors)) // tp + int(share * vectors) + per_rank_tables // tp
    bytes_per_weight = 2 if bf16 else 4
    state = 12 if bf16 else 8
    parameters = others + routed
    # Context-parallel ranks hold the same weights and share the state too; experts are repeated on fewer.
    shards = data_parallel_size * parallel.context_parallel_size
    optimizer = (others + routed * parallel.expert_model_parallel_size) * state // shards
    tokens = micro_batch_size * seq_length // parallel.context_parallel_size
    in_flight = min(pp, 8)  # 1F1B keeps as many micro-batches alive on the first stage as there are stages.
    # Bytes per token and layer at 2 bytes a number: 34h; 10h of them are split by sequence parallel only.
    split = 34 if parallel.sequence_parallel else 24
    activation = hidden * (split / tp + (34 - split)) * (bytes_per_weight / 2)
    if parallel.recompute_granularity == "full":  # A layer's input is kept, the rest of one layer at a time.
        activation = 2 * hidden * (bytes_per_weight / 2) + activation / layers_here
    logits = tokens * padded // tp * (bytes_per_weight + 4)
    return {
        "weights": parameters * bytes_per_weight,
        "gradients": parameters * 4,
        "optimizer": optimizer,
        "activations": int(tokens * activation * layers_here * in_flight) + logits,
    }
