"""The table of every family: which tensor of ours is which of the Hugging Face model's, and of what shape.

It has all tensors of every model that can be described, of those too that no class in transformers computes
(biases or a plain GELU in the Llama line): it is what a stored model is compared with. Their names there are
then nobody's.
"""

from __future__ import annotations

from collections.abc import Callable

from recipes.checkpoint.huggingface.rules import Rule, Shape, qkv, same, stacked, vocabulary
from recipes.config.schema import ModelConfig
from recipes.model.accounting import (
    GATED_ACTIVATIONS,
    VALUE_GATE_CHANNELS,
    expert_width,
    kv_channels,
    num_query_groups,
)
from recipes.model.layers import moe_layers, value_embedding_layers

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Q_K_V = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
Q_K_V_BIAS = ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")


def rules_of(model: ModelConfig) -> list[Rule]:
    """Every tensor of the model, each once, in the order of the layers."""
    hidden = model.hidden_size
    rules = [vocabulary("embedding.word_embeddings.weight", EMBEDDING, hidden, model)]
    if model.position_embedding_type == "learned_absolute":
        shape = (model.max_position_embeddings, hidden)
        rules.append(same("embedding.position_embeddings.weight", "model.embed_positions.weight", shape))
    layer_rules = LAYERS[model.family]
    for layer in range(model.num_layers):
        ours, theirs = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        rules += [rule.under(ours, theirs) for rule in layer_rules(model, layer)]
    rules += _norm("decoder.final_layernorm.", "model.norm.", model)
    if not model.share_embeddings_and_output_weights:
        rules.append(vocabulary("output_layer.weight", HEAD, hidden, model))
    return rules


def _norm(ours: str, theirs: str, model: ModelConfig) -> list[Rule]:
    """Of a norm over the hidden size; nano_hindi's have no parameters."""
    if model.family == "nano_hindi":
        return []
    return [same(ours + part, theirs + part, (model.hidden_size,)) for part in _norm_parts(model)]


def _norm_parts(model: ModelConfig) -> tuple[str, ...]:
    return ("weight", "bias") if model.normalization == "LayerNorm" else ("weight",)


def _attention(model: ModelConfig) -> list[Rule]:
    """The projections of attention, without norms."""
    hidden, queries = model.hidden_size, model.num_attention_heads * kv_channels(model)
    rules = [
        qkv("self_attention.linear_qkv.weight", Q_K_V, (hidden,), model),
        same("self_attention.linear_proj.weight", "self_attn.o_proj.weight", (hidden, queries)),
    ]
    if model.add_bias_linear:
        rules.append(same("self_attention.linear_proj.bias", "self_attn.o_proj.bias", (hidden,)))
    return rules


def _qk_norms(model: ModelConfig) -> list[Rule]:
    return [
        same(f"self_attention.{x}_layernorm.{part}", f"self_attn.{x}_norm.{part}", (kv_channels(model),))
        for x in "qk"
        for part in _norm_parts(model)
    ]


def _gated(ours: str, theirs: str, model: ModelConfig, width: int, expert: str = "") -> list[Rule]:
    """A gated MLP of inner ``width``; ``expert`` is its number, as ours are named by it."""
    hidden = model.hidden_size
    shapes: dict[str, tuple[Shape, Shape]] = {"weight": ((hidden,), (hidden, width)), "bias": ((), (hidden,))}
    rules = []
    for part, (tail, down) in shapes.items():
        if part == "weight" or model.add_bias_linear:
            gate, up = f"{theirs}gate_proj.{part}", f"{theirs}up_proj.{part}"
            rules.append(stacked(f"{ours}linear_fc1.{part}{expert}", (gate, up), width, tail))
            rules.append(same(f"{ours}linear_fc2.{part}{expert}", f"{theirs}down_proj.{part}", down))
    return rules


def _plain(ours: str, theirs: str, model: ModelConfig, width: int, expert: str = "") -> list[Rule]:
    """An MLP without gate, with biases where the model has them."""
    hidden = model.hidden_size
    shapes: dict[str, dict[str, Shape]] = {
        "fc1": {"weight": (width, hidden), "bias": (width,)},
        "fc2": {"weight": (hidden, width), "bias": (hidden,)},
    }
    return [
        same(f"{ours}linear_{matrix}.{part}{expert}", f"{theirs}{matrix}.{part}", shape)
        for matrix, parts in shapes.items()
        for part, shape in parts.items()
        if part == "weight" or model.add_bias_linear
    ]


def _mlp(ours: str, theirs: str, model: ModelConfig, width: int, expert: str = "") -> list[Rule]:
    kind = _gated if model.activation in GATED_ACTIVATIONS else _plain
    return kind(ours, theirs, model, width, expert)


def _llama(model: ModelConfig, layer: int) -> list[Rule]:
    rules = _norm("self_attention.linear_qkv.layer_norm_", "input_layernorm.", model) + _attention(model)
    if model.add_bias_linear:
        rules.append(qkv("self_attention.linear_qkv.bias", Q_K_V_BIAS, (), model))
    if model.qk_layernorm:
        rules += _qk_norms(model)
    if not moe_layers(model)[layer]:
        rules += _norm("mlp.linear_fc1.layer_norm_", "post_attention_layernorm.", model)
        return rules + _mlp("mlp.", "mlp.", model, model.ffn_hidden_size)
    return rules + _norm("pre_mlp_layernorm.", "post_attention_layernorm.", model) + _experts(model)


def _experts(model: ModelConfig) -> list[Rule]:
    """Of a mixture of experts: the names of Qwen3-MoE and GLM-4-MoE, or Mixtral's."""
    experts, hidden = model.num_moe_experts or 0, model.hidden_size
    block = "block_sparse_moe" if is_mixtral(model) else "mlp"
    rules = [same("mlp.router.weight", f"{block}.gate.weight", (experts, hidden))]
    if model.moe_router_enable_expert_bias:
        rules.append(same("mlp.router.expert_bias", "mlp.gate.e_score_correction_bias", (experts,)))
    for expert in range(experts):
        theirs = f"{block}.experts.{expert}."
        found = _mlp("mlp.experts.", theirs, model, expert_width(model), str(expert))
        rules += [_mixtral_names(rule) for rule in found] if is_mixtral(model) else found
    shared = model.moe_shared_expert_intermediate_size
    if shared is not None:
        rules += _mlp("mlp.shared_experts.", "mlp.shared_experts.", model, shared)
        if model.megatron.get("moe_shared_expert_gate"):
            gate = (1, hidden)
            rules.append(same("mlp.shared_experts.gate_weight", "mlp.shared_expert_gate.weight", gate))
    return rules


def _mixtral_names(rule: Rule) -> Rule:
    names = rule.theirs
    for name, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        names = tuple(text.replace(name, theirs) for text in names)
    return Rule(rule.ours, rule.shape, names, rule.runs)


def is_mixtral(model: ModelConfig) -> bool:
    """A mixture of experts without QK-norm, with softmax over the chosen experts: transformers' Mixtral."""
    return (
        model.family == "llama"
        and model.num_moe_experts is not None
        and not model.qk_layernorm
        and model.moe_router_score_function == "softmax"
        and model.moe_shared_expert_intermediate_size is None
        and all(moe_layers(model))
        and not model.moe_router_pre_softmax
    )


def _gemma3(model: ModelConfig, layer: int) -> list[Rule]:
    norms = {
        "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
        "self_attention.linear_proj.post_layernorm.": "post_attention_layernorm.",
        "mlp.linear_fc1.layer_norm_": "pre_feedforward_layernorm.",
        "mlp.linear_fc2.post_layernorm.": "post_feedforward_layernorm.",
    }
    rules = [rule for ours, theirs in norms.items() for rule in _norm(ours, theirs, model)]
    rules += _attention(model) + _qk_norms(model)
    return rules + _gated("mlp.", "mlp.", model, model.ffn_hidden_size)


def _nano_hindi(model: ModelConfig, layer: int) -> list[Rule]:
    rules = [same(name, name, (1,)) for name in ("resid_lambda", "x0_lambda")] + _attention(model)
    if value_embedding_layers(model)[layer]:
        groups = num_query_groups(model)
        table, gate = (f"value_{part}.weight" for part in ("embedding", "gate"))
        columns = groups * kv_channels(model)
        rules.append(vocabulary(f"self_attention.{table}", f"self_attn.{table}", columns, model))
        rules.append(same(f"self_attention.{gate}", f"self_attn.{gate}", (groups, VALUE_GATE_CHANNELS)))
    return rules + _plain("mlp.", "mlp.", model, model.ffn_hidden_size)


def _param_moe(model: ModelConfig, layer: int) -> list[Rule]:
    rules = _norm("self_attention.linear_qkv.layer_norm_", "input_layernorm.", model) + _attention(model)
    if not moe_layers(model)[layer]:
        rules += _norm("mlp.linear_fc1.layer_norm_", "post_attention_layernorm.", model)
        return rules + _plain("mlp.", "mlp.", model, model.ffn_hidden_size)
    rules += _norm("pre_mlp_layernorm.", "post_attention_layernorm.", model)
    experts = model.num_moe_experts or 0
    for ours, theirs in (("router.weight", "gate.weight"), ("router.noise_weight", "noise_gate.weight")):
        rules.append(same(f"mlp.{ours}", f"mlp.{theirs}", (experts, model.hidden_size)))
    for expert in range(experts):
        theirs = f"mlp.experts.{expert}."
        rules += _plain("mlp.experts.", theirs, model, expert_width(model), str(expert))
    return rules


LAYERS: dict[str, Callable[[ModelConfig, int], list[Rule]]] = {
    "llama": _llama,
    "gemma3": _gemma3,
    "nano_hindi": _nano_hindi,
    "param_moe": _param_moe,
}
