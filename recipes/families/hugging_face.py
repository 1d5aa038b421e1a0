"""Pieces of config.json that several families share, in both directions. No torch here."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from recipes.console import shown
from recipes.errors import UserError
from recipes.families.family import Architecture
from recipes.families.model_config import ModelConfig
from recipes.families.values import Values

MOST_LAYERS = 2_000
MOST_EXPERTS = 65_536


# From ModelConfig to config.json


def refuse_unless(fits: bool, model: ModelConfig, key: str) -> None:
    """
    Raises:
        UserError: ``fits`` is false; names the setting that no class supports.
    """
    if not fits:
        raise UserError(f"model.{key}={getattr(model, key)}: no class in transformers computes that")


def check_head_count(model: ModelConfig) -> None:
    """
    Raises:
        UserError: a number of heads that transformers' older classes refuse.
    """
    if model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"model.num_attention_heads={model.num_attention_heads}: transformers' class refuses a "
            f"hidden_size ({model.hidden_size}) that is no multiple of it"
        )


def class_keys(model: ModelConfig) -> dict[str, Any]:
    """Keys of transformers' own classes besides the sizes."""
    return {
        "initializer_range": model.init_method_std,
        "attention_bias": False,
        "attention_dropout": model.attention_dropout,
    }


def rms_norm_keys(model: ModelConfig) -> dict[str, Any]:
    """The epsilon of RMSNorm."""
    return {"rms_norm_eps": model.layernorm_epsilon}


def rotary_keys(model: ModelConfig) -> dict[str, Any]:
    """The base twice: transformers before version 5 reads rope_theta, later versions rope_parameters."""
    base = float(model.rotary_base)
    return {"rope_theta": base, "rope_parameters": {"rope_type": "default", "rope_theta": base}}


def remote_code(name: str, model_type: str, file: Path) -> Architecture:
    """An architecture with its <Name>Config and <Name>ForCausalLM in ``file``, exported with the weights."""
    return Architecture(f"{name}ForCausalLM", model_type, remote_code=file)


def auto_map(architecture: Architecture) -> dict[str, Any]:
    """Where transformers finds the classes of remote code."""
    assert architecture.remote_code is not None
    module = architecture.remote_code.stem
    prefix = architecture.name.removesuffix("ForCausalLM")
    return {
        "auto_map": {
            "AutoConfig": f"{module}.{prefix}Config",
            "AutoModelForCausalLM": f"{module}.{architecture.name}",
        }
    }


# From config.json to ModelConfig. All of these raise UserError for a value that no family here computes.


def layer_count(values: Values) -> int:
    """The number of layers."""
    return values.count("num_hidden_layers", most=MOST_LAYERS)


def rms_norm(values: Values, default: float = 1e-6) -> dict[str, Any]:
    """The epsilon of RMSNorm."""
    return epsilon(values, "rms_norm_eps", default)


def epsilon(values: Values, key: str, default: float) -> dict[str, Any]:
    """The epsilon of the norms."""
    number = values.number(key, default)
    if number <= 0:
        values.refuse(key, "must be positive")
    return {"layernorm_epsilon": number}


def rotary_base(values: Values, key: str, default: float) -> int:
    """A base of rotary positions."""
    base = values.number(key, default)
    if base < 1 or not base.is_integer():
        values.refuse(key, "must be a whole number; no family here has another base")
    return int(base)


def rotary(values: Values, default: float = 10000.0) -> dict[str, Any]:
    """Rotary positions with one base and no scaling."""
    scaling = values.mapping("rope_scaling")
    for name in ("rope_type", "type"):
        scaling.choice(name, ("default",), "default")
    if set(scaling.content) - {"rope_type", "type", "rope_theta"}:
        values.refuse("rope_scaling", "no family here computes that")
    parameters = values.mapping("rope_parameters")
    parameters.choice("rope_type", ("default",), "default")
    source = stated_once("rope_theta", values, scaling, parameters)
    return {"rotary_base": rotary_base(source, "rope_theta", default)}


def stated_once(key: str, *places: Values) -> Values:
    """The last of ``places`` that states ``key``, or the first if none does.

    Older and newer versions of transformers look in different places, so all that state it must agree.
    """
    stating = [place for place in places if place.has(key)]
    for place in stating[1:]:
        if place.content[key] != stating[0].content[key]:
            place.refuse(key, f"{stating[0].name} says {shown(stating[0].content[key])}; make them equal")
    return stating[-1] if stating else places[0]


def dropout(values: Values, key: str) -> float:
    """A dropout probability."""
    share = values.number(key, 0.0)
    if not 0 <= share < 1:
        values.refuse(key, "must be at least 0 and less than 1")
    return share


def experts(values: Values, key: str) -> dict[str, Any]:
    """How many experts there are, and how many of them each token is sent to."""
    count = values.count(key, most=MOST_EXPERTS)
    return {
        "num_moe_experts": count,
        "moe_router_topk": values.count("num_experts_per_tok", 2, most=count),
    }


def expert_layers(values: Values, key: str, mixtures: list[int], layers: int) -> dict[str, Any]:
    """The layers with experts in terms of our two settings: every n-th, but not the first k."""
    first = mixtures[0] if mixtures else layers
    distances = {b - a for a, b in pairwise(mixtures)} or {1, first, layers}
    for frequency in sorted(distances - {0}):
        if [layer for layer in range(first, layers) if layer % frequency == 0] == mixtures:
            return {"moe_layer_freq": frequency, "first_k_dense_replace": first}
    values.refuse(key, "only every n-th layer, after some dense ones, can hold experts")


def shortest_period(pattern: str) -> str:
    """The shortest text whose tiling is ``pattern``."""
    length = len(pattern)
    return next(
        pattern[:size]
        for size in range(1, length + 1)
        if (pattern[:size] * (length // size + 1))[:length] == pattern
    )
