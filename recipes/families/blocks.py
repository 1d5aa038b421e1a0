"""Parts of the families' tensor tables: norms, attention, MLPs, experts. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recipes.families.model_config import (
    GATED_ACTIVATIONS,
    ModelConfig,
    expert_width,
    kv_channels,
)
from recipes.families.tensors import (
    ATTENTION,
    EXPERTS,
    HEAD,
    MLP,
    OUTPUT_LAYER,
    POSITIONS,
    ROUTERS,
    SHARED_EXPERTS,
    VECTORS,
    WORD_EMBEDDINGS,
    WORDS,
    Shape,
    TensorSpec,
    qkv,
    same,
    stacked,
    vocabulary,
)

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
"""What transformers calls the word embeddings and the output head of nearly every model."""
Q_K_V = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
Table = list[TensorSpec]


def whole_model(
    model: ModelConfig,
    layer_table: Callable[[ModelConfig, int], Table],
    final_norm: Table,
    *,
    embedding: str = EMBEDDING,
    layers: str = "model.layers",
    output: str = OUTPUT,
) -> Table:
    """Every tensor of a decoder, each once, in layer order.

    Args:
        layer_table: the tensors of one layer, with names relative to it.
        embedding, layers, output: what transformers calls the word embeddings, the list of layers and the
            output head.
    """
    hidden, tied = model.hidden_size, model.share_embeddings_and_output_weights
    table = [vocabulary(WORD_EMBEDDINGS, embedding, hidden, model, WORDS, multiplied=tied)]
    if model.position_embedding_type == "learned_absolute":
        table.append(
            same(
                "embedding.position_embeddings.weight",
                "model.embed_positions.weight",
                (model.max_position_embeddings, hidden),
                POSITIONS,
                table=True,
                axes=("max_position_embeddings", "hidden_size"),
            )
        )
    for layer in range(model.num_layers):
        ours, theirs = f"decoder.layers.{layer}.", f"{layers}.{layer}."
        table += [spec.under(ours, theirs) for spec in layer_table(model, layer)]
    table += final_norm
    if not tied:
        table.append(vocabulary(OUTPUT_LAYER, output, hidden, model, HEAD, multiplied=True))
    return table


def norm(ours: str, theirs: str, model: ModelConfig) -> Table:
    """A norm over the hidden size: gain, and bias with LayerNorm."""
    return [same(ours + part, theirs + part, (model.hidden_size,)) for part in _norm_parts(model)]


def final_norm(model: ModelConfig) -> Table:
    """The norm before the output head."""
    return norm("decoder.final_layernorm.", "model.norm.", model)


def qk_norms(model: ModelConfig) -> Table:
    """Norms of every head's query and key."""
    return [
        same(f"self_attention.{x}_layernorm.{part}", f"self_attn.{x}_norm.{part}", (kv_channels(model),))
        for x in "qk"
        for part in _norm_parts(model)
    ]


def _norm_parts(model: ModelConfig) -> tuple[str, ...]:
    return ("weight", "bias") if model.normalization == "LayerNorm" else ("weight",)


def attention(model: ModelConfig) -> Table:
    """The projections of attention, without norms and without the biases of queries, keys and values."""
    hidden, width = model.hidden_size, model.num_attention_heads * kv_channels(model)
    query, key, value = (f"{name}.weight" for name in Q_K_V)
    table = [
        qkv("self_attention.linear_qkv.weight", (query, key, value), (hidden,), model, ATTENTION),
        same(
            "self_attention.linear_proj.weight",
            "self_attn.o_proj.weight",
            (hidden, width),
            ATTENTION,
            multiplied=True,
            split=True,
            axes=("hidden_size", "num_attention_heads x kv_channels"),
        ),
    ]
    if model.add_bias_linear:
        table.append(same("self_attention.linear_proj.bias", "self_attn.o_proj.bias", (hidden,)))
    return table


def qkv_bias(model: ModelConfig) -> TensorSpec:
    """The biases of queries, keys and values."""
    query, key, value = (f"{name}.bias" for name in Q_K_V)
    return qkv("self_attention.linear_qkv.bias", (query, key, value), (), model)


def mlp(model: ModelConfig, ours: str = "mlp.", theirs: str = "mlp.") -> Table:
    """The MLP of a dense layer."""
    return _mlp(model, ours, theirs, model.ffn_hidden_size, "ffn_hidden_size", MLP)


def _mlp(
    model: ModelConfig, ours: str, theirs: str, width: int, setting: str, part: str, expert: str = ""
) -> Table:
    """An MLP of inner ``width``, given by ``setting``; ``expert`` is its number as part of our names."""
    gated = model.activation in GATED_ACTIVATIONS
    hidden = model.hidden_size
    names = ("gate_proj", "up_proj", "down_proj") if gated else ("fc1", "fc2")
    *inner, outer = (theirs + name for name in names)
    tails: dict[str, tuple[Shape, Shape]] = {"weight": ((hidden,), (hidden, width)), "bias": ((), (hidden,))}
    table = []
    for kind, (tail, shape) in tails.items():
        if kind == "bias" and not model.add_bias_linear:
            continue
        is_matrix = kind == "weight"
        counted_under = part if is_matrix else VECTORS
        rows = tuple(f"{name}.{kind}" for name in inner)
        name = f"{ours}linear_fc1.{kind}{expert}"
        first = stacked(name, rows, width, tail, counted_under, multiplied=is_matrix)
        second = same(
            f"{ours}linear_fc2.{kind}{expert}",
            f"{outer}.{kind}",
            shape,
            counted_under,
            multiplied=is_matrix,
            split=is_matrix,
            axes=("hidden_size", setting) if is_matrix else (),
        )
        table += [first, second]
    return table


def routed_experts(model: ModelConfig, theirs: str) -> Table:
    """Every routed expert of a layer; biases count with their expert. ``theirs`` contains ``{expert}``."""
    width = expert_width(model)
    return [
        replace(spec, part=EXPERTS, routed=True)
        for expert in range(model.num_moe_experts or 0)
        for spec in _mlp(model, "mlp.experts.", theirs.format(expert=expert), width, "", EXPERTS, str(expert))
    ]


def shared_experts(model: ModelConfig, width: int) -> Table:
    """The experts that every token passes through, with a total width of ``width``."""
    setting = "moe_shared_expert_intermediate_size"
    names = "mlp.shared_experts."
    table = _mlp(model, names, names, width, setting, SHARED_EXPERTS)
    if model.megatron.get("moe_shared_expert_gate"):
        ours, theirs = "mlp.shared_experts.gate_weight", "mlp.shared_expert_gate.weight"
        table.append(same(ours, theirs, (1, model.hidden_size), SHARED_EXPERTS, multiplied=True))
    return table


def router(model: ModelConfig, name: str, theirs: str) -> TensorSpec:
    """A matrix that scores the experts for a token."""
    shape = (model.num_moe_experts or 0, model.hidden_size)
    return same(name, theirs, shape, ROUTERS, multiplied=True, wide=True)
