"""From a Hugging Face config.json to our model description."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from recipes.checkpoint.huggingface.values import Values
from recipes.config.schema import ModelConfig
from recipes.model.layers import layer_windows, value_embedding_layers

FILE = "config.json"
MOST_LAYERS = 2_000
MOST_EXPERTS = 65_536
# Settings of theirs that our families compute in one way only, with what they may be where they are given.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "use_bidirectional_attention": (False,),
    "n_group": (1,),
    "topk_group": (1,),
    "decoder_sparse_step": (1,),
    "pretraining_tp": (1,),
    "quantization_config": (),
}


def from_hf_config(config: dict[str, Any]) -> ModelConfig:
    """The description of a Hugging Face model, from its config.json alone.

    ``parambharatgen`` is Param-1's published remote-code class, whose weights are Llama's.

    Raises:
        UserError: another model type, a value of another type or size than it can have, or a setting that no
            family here computes.
    """
    values = Values(config, FILE)
    model_type = values.choice("model_type", tuple(TYPES))
    for key, allowed in REQUIRED.items():
        value = config.get(key)
        # Not 1 == True: a flag must be a flag.
        if value is not None and not any(value == known and type(value) is type(known) for known in allowed):
            values.refuse(key, "no family here computes that")
    fields = {**_common(values), **TYPES[model_type](values)}
    return ModelConfig(**fields)


def _common(values: Values) -> dict[str, Any]:
    heads = values.count("num_attention_heads")
    groups = values.count("num_key_value_heads", heads)
    if heads % groups:
        values.refuse("num_key_value_heads", f"must divide num_attention_heads, {heads}")
    hidden = values.count("hidden_size")
    width = values.count("head_dim", max(1, hidden // heads))
    dropout = values.number("attention_dropout", 0.0)
    if not 0 <= dropout < 1:
        values.refuse("attention_dropout", "must be at least 0 and less than 1")
    return {
        "num_layers": values.count("num_hidden_layers", most=MOST_LAYERS),
        "hidden_size": hidden,
        "ffn_hidden_size": values.count("intermediate_size"),
        "num_attention_heads": heads,
        "num_query_groups": groups,
        "kv_channels": width,
        "vocab_size": values.count("vocab_size"),
        "max_position_embeddings": values.count("max_position_embeddings"),
        "init_method_std": values.number("initializer_range", 0.02),
        "attention_dropout": dropout,
    }


def _rms_norm(values: Values, default: float = 1e-6) -> dict[str, Any]:
    epsilon = values.number("rms_norm_eps", default)
    if epsilon <= 0:
        values.refuse("rms_norm_eps", "must be positive")
    return {"layernorm_epsilon": epsilon}


def _base(values: Values, key: str, default: float) -> int:
    base = values.number(key, default)
    if base < 1 or not base.is_integer():
        values.refuse(key, "must be a whole number; no family here has another base")
    return int(base)


def _rotary(values: Values, default: float = 10000.0) -> dict[str, Any]:
    scaling = values.mapping("rope_scaling")
    for name in ("rope_type", "type"):
        scaling.choice(name, ("default",), "default")
    if set(scaling.content) - {"rope_type", "type", "rope_theta"}:
        values.refuse("rope_scaling", "no family here computes that")
    parameters = values.mapping("rope_parameters")
    parameters.choice("rope_type", ("default",), "default")
    source = parameters if parameters.has("rope_theta") else values
    return {"rotary_base": _base(source, "rope_theta", default)}


def _llama(values: Values) -> dict[str, Any]:
    values.choice("hidden_act", ("silu", "swish"), "silu")
    tied = values.flag("tie_word_embeddings", False)
    return {"share_embeddings_and_output_weights": tied, **_rms_norm(values), **_rotary(values)}


def _qwen3(values: Values) -> dict[str, Any]:
    if "sliding_attention" in (values.content.get("layer_types") or ()):
        values.refuse("layer_types", "no family here computes that")
    return {**_llama(values), "qk_layernorm": True}


def _experts(values: Values, key: str) -> dict[str, Any]:
    experts = values.count(key, most=MOST_EXPERTS)
    return {
        "num_moe_experts": experts,
        "moe_router_topk": values.count("num_experts_per_tok", 2, most=experts),
    }


def _mixtral(values: Values) -> dict[str, Any]:
    if values.has("sliding_window"):
        values.refuse("sliding_window", "no family here computes that")
    return {
        **_llama(values),
        **_rms_norm(values, 1e-5),
        **_rotary(values, 1e6),
        **_experts(values, "num_local_experts"),
    }


def _qwen3_moe(values: Values) -> dict[str, Any]:
    layers = values.count("num_hidden_layers", most=MOST_LAYERS)
    dense = values.numbers_of_layers("mlp_only_layers", layers)
    experts = [layer for layer in range(layers) if layer not in set(dense)]
    return {
        **_qwen3(values),
        **_experts(values, "num_experts" if values.has("num_experts") else "num_local_experts"),
        **_expert_layers(values, "mlp_only_layers", experts, layers),
        "moe_ffn_hidden_size": values.count("moe_intermediate_size"),
        "moe_router_pre_softmax": not values.flag("norm_topk_prob", False),
    }


def _expert_layers(values: Values, key: str, experts: list[int], layers: int) -> dict[str, Any]:
    """Which layers hold experts as our two settings say it: every n-th, but not the first k."""
    first = experts[0] if experts else layers
    distances = {b - a for a, b in pairwise(experts)} or {1, first, layers}
    for frequency in sorted(distances - {0}):
        if [layer for layer in range(first, layers) if layer % frequency == 0] == experts:
            return {"moe_layer_freq": frequency, "first_k_dense_replace": first}
    values.refuse(key, "only every n-th layer, after some dense ones, can hold experts")


def _glm4_moe(values: Values) -> dict[str, Any]:
    layers = values.count("num_hidden_layers", most=MOST_LAYERS)
    experts = _experts(values, "n_routed_experts")
    normed = values.flag("norm_topk_prob", True)
    if normed != (experts["moe_router_topk"] > 1):
        values.refuse("norm_topk_prob", "weights are normed for several experts, and not for a single one")
    width = values.count("moe_intermediate_size")
    shared = values.count("n_shared_experts", 1, most=MOST_EXPERTS) * width
    rope = values.mapping("rope_parameters")
    source = rope if rope.has("partial_rotary_factor") else values
    rotary_percent = source.number("partial_rotary_factor", 0.5)
    if not 0 < rotary_percent <= 1:
        source.refuse("partial_rotary_factor", "must be in (0, 1]")
    scaling = values.number("routed_scaling_factor", 1.0)
    return {
        **_llama(values),
        **_rms_norm(values, 1e-5),
        **experts,
        "qk_layernorm": values.flag("use_qk_norm", False),
        "rotary_percent": rotary_percent,
        "moe_ffn_hidden_size": width,
        "first_k_dense_replace": values.count("first_k_dense_replace", 1, least=0, most=layers),
        "moe_shared_expert_intermediate_size": shared,
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_topk_scaling_factor": scaling if scaling != 1.0 else None,
    }


def _gemma3(values: Values) -> dict[str, Any]:
    values.choice("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    width = values.count("head_dim", 256)
    if values.number("query_pre_attn_scalar", 256.0) != width:
        values.refuse(
            "query_pre_attn_scalar", f"differs from head_dim, {width}; no family here computes that"
        )
    layers = values.count("num_hidden_layers", most=MOST_LAYERS)
    pattern = _pattern(values, layers)
    windowed = "S" in pattern
    rope = values.mapping("rope_parameters")
    full, sliding = rope.mapping("full_attention"), rope.mapping("sliding_attention")
    for parameters in (full, sliding):
        parameters.choice("rope_type", ("default",), "default")
    if values.has("rope_scaling"):
        values.refuse("rope_scaling", "no family here computes that")
    base = _base(full, "rope_theta", 1e6) if full.has("rope_theta") else _base(values, "rope_theta", 1e6)
    if sliding.has("rope_theta"):
        local = _base(sliding, "rope_theta", 1e4)
    else:
        local = _base(values, "rope_local_base_freq", 1e4)
    return {
        **_rms_norm(values),
        "family": "gemma3",
        "activation": "geglu",
        "qk_layernorm": True,
        "kv_channels": width,
        "share_embeddings_and_output_weights": values.flag("tie_word_embeddings", True),
        "rotary_base": base,
        "rotary_base_local": local if windowed else None,
        "window_size": values.count("sliding_window", 4096) if windowed else None,
        "window_pattern": pattern if windowed else None,
    }


def _pattern(values: Values, layers: int) -> str:
    """S and L by layer, as short as its tiling allows."""
    kinds = values.content.get("layer_types")
    if kinds is None:
        key = "sliding_window_pattern" if values.has("sliding_window_pattern") else "_sliding_window_pattern"
        period = values.count(key, 6)
        kinds = ["sliding_attention" if (n + 1) % period else "full_attention" for n in range(layers)]
    letters = {"sliding_attention": "S", "full_attention": "L"}
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or not all(isinstance(kind, str) and kind in letters for kind in kinds)
    ):
        values.refuse("layer_types", f"must name the attention of each of the {layers} layers")
    return _shortest_period("".join(letters[kind] for kind in kinds))


def _shortest_period(pattern: str) -> str:
    """The shortest text whose tiling is ``pattern``."""
    length = len(pattern)
    return next(
        pattern[:size]
        for size in range(1, length + 1)
        if (pattern[:size] * (length // size + 1))[:length] == pattern
    )


def _nano_hindi(values: Values) -> dict[str, Any]:
    layers = values.count("num_hidden_layers", most=MOST_LAYERS)
    fields: dict[str, Any] = {
        **_rms_norm(values),
        "family": "nano_hindi",
        "activation": "squared_relu",
        "qk_layernorm": True,
        "rotary_base": _base(values, "rope_theta", 1e4),
        "final_logit_softcapping": values.number("logit_soft_cap") if values.has("logit_soft_cap") else None,
        "init_method_std": 0.02,
    }
    windows = _windows(values, layers)
    sizes = {size for size in windows if size is not None}
    if sizes:
        # The last layer is full whatever the pattern says: the shortest pattern may say S there.
        letters = "".join("L" if size is None else "S" for size in windows)
        patterns = (_shortest_period(letters), _shortest_period(letters[:-1] or letters))
        fields |= {"window_size": sizes.pop(), "window_pattern": min(patterns, key=len)}
    described = ModelConfig(**{**_common(values), **fields})
    expected = [layer for layer, has_values in enumerate(value_embedding_layers(described)) if has_values]
    if layer_windows(described) != windows:
        values.refuse("layer_windows", "the last layer must be full")
    if values.numbers_of_layers("value_embedding_layers", layers) != expected:
        values.refuse("value_embedding_layers", "must be every other layer, the last included")
    return fields


def _windows(values: Values, layers: int) -> list[int | None]:
    windows = values.content.get("layer_windows")
    if (
        not isinstance(windows, list)
        or len(windows) != layers
        or not all(size is None or (type(size) is int and size > 0) for size in windows)
        or len(set(windows) - {None}) > 1
    ):
        values.refuse("layer_windows", f"must be null or one window size for each of the {layers} layers")
    return windows


def _param_moe(values: Values) -> dict[str, Any]:
    layers = values.count("num_hidden_layers", most=MOST_LAYERS)
    dropout = values.number("hidden_dropout", 0.0)
    if not 0 <= dropout < 1:
        values.refuse("hidden_dropout", "must be at least 0 and less than 1")
    epsilon = values.number("layer_norm_eps", 1e-5)
    if epsilon <= 0:
        values.refuse("layer_norm_eps", "must be positive")
    fields: dict[str, Any] = {
        "family": "param_moe",
        "activation": "gelu",
        "normalization": "LayerNorm",
        "layernorm_epsilon": epsilon,
        "add_bias_linear": True,
        "position_embedding_type": "learned_absolute",
        "hidden_dropout": dropout,
    }
    experts = values.numbers_of_layers("moe_layers", layers)
    if not experts:
        return fields
    return {
        **fields,
        **_experts(values, "num_experts"),
        **_expert_layers(values, "moe_layers", experts, layers),
        "moe_ffn_hidden_size": values.count("moe_intermediate_size"),
    }


TYPES: dict[str, Callable[[Values], dict[str, Any]]] = {
    "llama": _llama,
    "parambharatgen": _llama,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "glm4_moe": _glm4_moe,
    "gemma3_text": _gemma3,
    "nano_hindi": _nano_hindi,
    "param_moe": _param_moe,
}
