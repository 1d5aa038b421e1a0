"""What a forward pass keeps for the backward pass, from the described layers. No torch here.

Counted in numbers per token, tensor by tensor, after Korthikanti et al. 2022 (arXiv 2205.05198, section
4.1), whose ``sbh (34 + 5 a s / h)`` bytes per layer hold for a GELU of width 4h, as many keys as queries,
dropout, and attention that stores its matrix. Here instead:

- SDPA's and flash kernels store queries, keys, values, output and one number per head (Dao et al. 2022, arXiv
  2205.14135): no ``5 a s / h``.
- Grouped queries: keys and values have num_query_groups heads. The values are a view of the projection's
  output, which stays as a whole beside the rotated queries and keys.
- SwiGLU keeps gate and up (2f) and their product (f), where f is ffn_hidden_size; without a fused kernel also
  silu(gate) and a copy of up.
- Masks of dropout only where there is dropout.

tests/plan/test_activations.py compares it with what autograd really keeps on the CPU, family by family.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipes.config.schema import ParallelConfig
from recipes.families.family import layer_windows, tensor_table
from recipes.families.model_config import (
    GATED_ACTIVATIONS,
    ModelConfig,
    expert_width,
    kv_channels,
    moe_layers,
    num_query_groups,
)

CPU_WINDOW_BLOCK = 64
"""Queries per block of windowed attention on the CPU (recipes/model/causal.py)."""


@dataclass(frozen=True)
class LayerActivations:
    """Numbers per token that one layer keeps on a rank, by what selective recomputation can give up."""

    stream: float
    """The residual stream, and the inputs of norms after a sub-layer."""
    norms: float
    """Outputs of the norms before attention and MLP."""
    attention: float
    attention_matrix: float
    """The softmax's inner results, only where no fused kernel supports the settings."""
    mlp: float
    """Of a dense layer."""
    routed: float
    routed_activation: float
    """Of ``routed``, the inputs of the experts' second matrices."""
    shared: float

    @property
    def total(self) -> float:
        experts = self.routed + self.shared
        return self.stream + self.norms + self.attention + self.attention_matrix + self.mlp + experts


def layer_activations(
    model: ModelConfig, parallel: ParallelConfig, seq_length: int, *, on_cuda: bool
) -> list[LayerActivations]:
    """For each layer, what one micro-batch keeps on a rank, in numbers per token of the rank's sequences."""
    layers = zip(layer_windows(model), moe_layers(model), _gains_of_layers(model), strict=True)
    return [
        _of_layer(model, parallel, seq_length, window, is_moe, gains, on_cuda=on_cuda)
        for window, is_moe, gains in layers
    ]


def _of_layer(
    model: ModelConfig,
    parallel: ParallelConfig,
    seq_length: int,
    window: int | None,
    is_moe: bool,
    gains: int,
    *,
    on_cuda: bool,
) -> LayerActivations:
    tp = parallel.tensor_model_parallel_size
    # Without sequence parallelism every tensor-parallel rank holds the whole stream (Korthikanti, section
    # 4.2).
    hidden = model.hidden_size / (tp if parallel.sequence_parallel else 1)
    stream = max(2, gains) * hidden  # The input of every norm: the two before the sub-layers have one always.
    norms = 2 * hidden
    if not on_cuda and model.normalization == "RMSNorm":
        norms += gains * hidden  # torch's CPU kernel keeps the values before the gain too.
    if model.hidden_dropout > 0:
        stream += 2 * hidden * (0.5 if on_cuda else 1)  # A byte each on the GPU.
    experts_tp = parallel.expert_tensor_parallel_size or tp
    routed = activation = shared = mlp = 0.0
    if is_moe:
        # Each token's copies for its experts, and the probabilities of routing.
        activation = model.moe_router_topk * expert_width(model) / experts_tp
        kept = model.moe_router_topk * _mlp(model, expert_width(model), on_cuda=on_cuda) / experts_tp
        # The product with the router's probabilities keeps its input.
        weighted = 0.0 if _fused_activation(model, on_cuda=on_cuda) else activation
        routed = (
            model.moe_router_topk * model.hidden_size + kept + weighted + 4 * (model.num_moe_experts or 0)
        )
        width = model.moe_shared_expert_intermediate_size or 0
        shared = _mlp(model, width, on_cuda=on_cuda) / tp
    else:
        mlp = _mlp(model, model.ffn_hidden_size, on_cuda=on_cuda) / tp
    return LayerActivations(
        stream=stream,
        norms=norms,
        attention=_attention(model, seq_length, window, gains, on_cuda=on_cuda) / tp,
        attention_matrix=_attention_matrix(model, seq_length, on_cuda=on_cuda) / tp,
        mlp=mlp,
        routed=routed,
        routed_activation=activation,
        shared=shared,
    )


def _attention(
    model: ModelConfig, seq_length: int, window: int | None, gains: int, *, on_cuda: bool
) -> float:
    width = kv_channels(model)
    queries, keys = model.num_attention_heads * width, num_query_groups(model) * width
    numbers = queries + 2 * keys  # What the projection computed.
    numbers += queries  # What attention computed.
    if model.qk_layernorm:
        numbers += queries  # The norm's input; that of the keys is a view.
        numbers += queries + keys if gains and not on_cuda else 0  # As for the other norms.
    if model.position_embedding_type == "rope":
        numbers += queries + keys  # After the rotation.
    elif num_query_groups(model) != model.num_attention_heads:
        numbers += queries
    if window is not None and window < seq_length and not on_cuda:
        # Blocks of queries, each with a copy of the keys and values that it sees.
        copies = (CPU_WINDOW_BLOCK + window - 1) / CPU_WINDOW_BLOCK
        numbers += round(2 * keys * copies) + queries
    return numbers


def _attention_matrix(model: ModelConfig, seq_length: int, *, on_cuda: bool) -> float:
    """torch's CPU attention has no fused kernel with dropout: softmax, mask and their product are kept."""
    if on_cuda or model.attention_dropout == 0:
        return 0.0
    return 3.0 * model.num_attention_heads * seq_length


def _mlp(model: ModelConfig, width: int, *, on_cuda: bool) -> float:
    if model.activation not in GATED_ACTIVATIONS:
        return 2.0 * width
    return (3.0 if _fused_activation(model, on_cuda=on_cuda) else 5.0) * width


def _fused_activation(model: ModelConfig, *, on_cuda: bool) -> bool:
    """As recipes/model/build.py sets bias_activation_fusion."""
    return on_cuda and model.activation == "swiglu"


def _gains_of_layers(model: ModelConfig) -> list[int]:
    """For each layer, its norms with a gain over the hidden size, so not those of queries and keys."""
    gains = [0] * model.num_layers
    for spec in tensor_table(model):
        is_gain = spec.name.endswith(("norm.weight", "norm_weight")) and "k_layernorm" not in spec.name
        if spec.layer is not None and is_gain and "q_layernorm" not in spec.name:
            gains[spec.layer] += 1
    return gains


def stage_numbers(
    layers: list[LayerActivations], parallel: ParallelConfig, hidden_size: int
) -> tuple[float, float]:
    """What a pipeline stage keeps for one micro-batch, and what its backward pass needs beside that.

    Recomputation keeps a part's input instead of what is in it, and rebuilds one part at a time. The
    gradients of a layer's tensors take about as much memory as these.

    Returns:
        Both in numbers per token.
    """
    tp = parallel.tensor_model_parallel_size
    layer_input = hidden_size / (tp if parallel.sequence_parallel else 1)
    everything = [layer.total for layer in layers]
    kept, rebuilt = sum(everything), 0.0
    if parallel.recompute_granularity == "full":
        count = parallel.recompute_num_layers or 1
        if parallel.recompute_method == "block":
            kept = len(everything[:count]) * layer_input + sum(everything[count:])
            rebuilt = max(everything[:count])
        else:
            chunks = [everything[first : first + count] for first in range(0, len(layers), count)]
            kept, rebuilt = len(chunks) * layer_input, max(map(sum, chunks))
    elif parallel.recompute_granularity == "selective":
        lost = [given_up(layer, parallel.recompute_modules or ["core_attn"]) for layer in layers]
        kept, rebuilt = kept - sum(lost), max(lost)
    return kept, rebuilt + max(everything)


def given_up(layer: LayerActivations, modules: list[str]) -> float:
    """Numbers per token of a layer that selective recomputation does not keep."""
    sizes = {
        "core_attn": layer.attention_matrix,
        "mlp": layer.mlp,
        "moe": layer.routed + layer.shared,
        "shared_experts": 0.0 if "moe" in modules else layer.shared,
        "moe_act": 0.0 if "moe" in modules else layer.routed_activation,
        "layernorm": layer.norms,
    }
    return sum(sizes[module] for module in modules)
