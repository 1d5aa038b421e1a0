"""The description of a model, and the sizes that follow from it. No torch here.

The names are megatron-core's and NeMo's. A value that is ``MISSING`` must be given; ``None`` means "not set",
and the comment says what happens then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from recipes.bounds import Width

if TYPE_CHECKING:
    VocabSize = int
else:  # What may be written; recipes/data/tokenizer/vocabulary.py makes it a number before anything reads it.
    VocabSize = int | str

AUTO = "auto"
GATED_ACTIVATIONS = ("swiglu", "geglu")


@dataclass(frozen=True)
class ModelConfig:
    """The architecture that is trained, nothing about the run."""

    family: str = "llama"
    """Which file of recipes/families describes the layers."""
    num_layers: int = MISSING
    """Transformer layers."""
    hidden_size: Width = MISSING
    """Width of the residual stream."""
    ffn_hidden_size: Width = MISSING
    """Inner width of the MLP; of gated activations, of each of the two halves."""
    num_attention_heads: Width = MISSING
    """Query heads of every layer."""
    num_query_groups: Width | None = None
    """Key-value heads of grouped-query attention; None: as many as attention heads."""
    kv_channels: Width | None = None
    """Width of one head; None: hidden_size / num_attention_heads."""
    vocab_size: VocabSize = MISSING
    """Rows of the vocabulary that tokens can use. The tokenizer may have fewer, never more. auto: as many as
    tokenizer.model has; the run's config.yaml then holds the number."""
    make_vocab_size_divisible_by: Width = 128
    """The tables are padded to a multiple of this, whatever the parallel layout."""
    max_position_embeddings: int = MISSING
    """Longest sequence that the model supports; data.seq_length may be shorter."""
    normalization: str = "RMSNorm"
    """RMSNorm or LayerNorm."""
    layernorm_epsilon: float = 1e-5
    """Added to the variance that a norm divides by."""
    activation: str = "swiglu"
    """swiglu (SiLU-gated), geglu (gated by the tanh form of GELU), gelu (exact) or squared_relu."""
    add_bias_linear: bool = False
    """Biases in the layers' linear projections."""
    position_embedding_type: str = "rope"
    """rope or learned_absolute."""
    rotary_base: int = 10000
    """RoPE base (theta)."""
    rotary_base_local: int | None = None
    """RoPE base of the windowed layers; None: rotary_base."""
    rotary_percent: float = 1.0
    """Share of every head's channels that RoPE rotates."""
    qk_layernorm: bool = False
    """RMSNorm of every head's query and key before attention."""
    window_size: int | None = None
    """Tokens that a windowed layer attends to, including the query's own; None: no layer is windowed."""
    window_pattern: str | None = None
    """Which layers are windowed, tiled over the layers: S windowed, L full attention, for example SSSL."""
    final_logit_softcapping: float | None = None
    """c: logits become c * tanh(logits / c)."""
    share_embeddings_and_output_weights: bool = False
    """Tie the output head to the input embedding."""
    init_method: str = "normal"
    """Of the layers' matrices: normal (init_method_std) or kaiming_uniform (torch.nn.Linear's own)."""
    init_method_std: float = 0.02
    """Standard deviation of the initial weights."""
    embedding_init_method_std: float | None = None
    """Of the embedding tables; None: init_method_std."""
    use_scaled_init_method: bool = True
    """Divide the std of output projections by sqrt(2 * num_layers), as Megatron does."""
    hidden_dropout: float = 0.0
    """Dropout of embeddings and of what attention and MLP add to the residual stream."""
    attention_dropout: float = 0.0
    """Dropout of attention weights."""

    num_moe_experts: int | None = None
    """Routed experts of each mixture-of-experts layer; None: every layer is dense."""
    moe_ffn_hidden_size: Width | None = None
    """Width of one routed expert; None: ffn_hidden_size."""
    moe_router_topk: int = 2
    """Routed experts that each token passes through."""
    moe_layer_freq: int = 1
    """n: of every n layers the first is a mixture of experts, counted from layer 0."""
    first_k_dense_replace: int = 0
    """This many first layers are dense, whatever moe_layer_freq says."""
    moe_shared_expert_intermediate_size: Width | None = None
    """Total width of the experts that every token passes through; None: there are none."""
    moe_router_score_function: str = "softmax"
    """softmax or sigmoid."""
    moe_router_pre_softmax: bool = False
    """Softmax over all experts before the top-k choice, instead of over the chosen ones."""
    moe_router_topk_scaling_factor: float | None = None
    """Factor on the chosen experts' weights."""
    moe_router_enable_expert_bias: bool = False
    """Balance by a bias on the scores, corrected after every step, without a loss (arXiv 2408.15664)."""
    moe_router_bias_update_rate: float = 1e-3
    """Size of that correction."""
    moe_router_load_balancing_type: str = "aux_loss"
    """aux_loss (per micro-batch), seq_aux_loss (per sequence) or none."""
    moe_aux_loss_coeff: float = 0.0
    """Weight of the load-balancing loss."""
    moe_z_loss_coeff: float | None = None
    """Weight of the loss on the size of the router's logits; None: there is none."""
    moe_importance_loss_coeff: float = 0.0
    """Weight of the squared coefficient of variation of the experts' gates (arXiv 1701.06538, eq. 6)."""
    moe_load_loss_coeff: float = 0.0
    """The same for the experts' expected loads (eq. 11); noisy routers only."""
    moe_expert_capacity_factor: float | None = None
    """An expert drops tokens beyond this multiple of an even share; None: it drops none."""
    megatron: dict[str, Any] = field(default_factory=dict)
    """Any other field of megatron-core's TransformerConfig, by its own name."""


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


def expert_width(model: ModelConfig) -> int:
    """Inner width of one routed expert."""
    return model.moe_ffn_hidden_size or model.ffn_hidden_size


def moe_layers(model: ModelConfig) -> list[bool]:
    """For each layer, whether it is a mixture of experts."""
    return [
        model.num_moe_experts is not None
        and layer >= model.first_k_dense_replace
        and layer % model.moe_layer_freq == 0
        for layer in range(model.num_layers)
    ]


def window_pattern(model: ModelConfig) -> list[int | None]:
    """For each layer the tokens it attends to, including the query's own; None: all before it."""
    if model.window_size is None or model.window_pattern is None:
        return [None] * model.num_layers
    pattern = model.window_pattern
    return [
        model.window_size if pattern[layer % len(pattern)] == "S" else None
        for layer in range(model.num_layers)
    ]
