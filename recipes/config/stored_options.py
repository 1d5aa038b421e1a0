"""The fields of ``model.megatron`` that a model file holds: those that decide what the model computes.

The user's own YAML may set any field of megatron-core's TransformerConfig. Some make it write files
(config_logger_dir) or import what they name (fp8_quantizer_factory), so only the fields here are read from
a file, which may be untrusted. Our own files hold no others: a field that is not here decides how fast, with
how much memory or in which numeric format a run computes, and does not matter to readers of the weights.
No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recipes.checks import refuse


@dataclass(frozen=True)
class Option:
    """What values a field may have."""

    description: str
    fits: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _choice(*values: str) -> Option:
    return Option(" or ".join(values), lambda value: isinstance(value, str) and value in values)


def _or_none(option: Option) -> Option:
    return Option(f"{option.description}, or null", lambda value: value is None or option.fits(value))


def _layers(value: Any) -> bool:
    """Every n layers, or one flag for each layer."""
    if isinstance(value, list | tuple):
        return all(type(flag) is int and flag in (0, 1) for flag in value)
    return COUNT.fits(value)


FLAG = Option("true or false", lambda value: isinstance(value, bool))
COUNT = Option("a positive integer", lambda value: type(value) is int and value > 0)
POSITIVE = Option("a positive number", lambda value: _number(value) and value > 0)

STORED_OPTIONS: Mapping[str, Option] = {
    # Attention and positions
    "rotary_interleaved": FLAG,
    "no_rope_freq": _or_none(Option("a number of layers, or a list of a 0 or 1 for each layer", _layers)),
    "softmax_scale": _or_none(POSITIVE),
    # Not "learnable": its weights are in no family's table.
    "softmax_type": _choice("vanilla", "off-by-one"),
    "attention_softmax_in_fp32": FLAG,
    "apply_query_key_layer_scaling": FLAG,
    "fp32_residual_connection": FLAG,
    # The MLP. megatron-core's fused GELU is the tanh form, the plain one is exact.
    "bias_activation_fusion": FLAG,
    "activation_func_clamp_value": _or_none(POSITIVE),
    "glu_linear_offset": Option("a number", _number),
    # Experts
    "moe_router_dtype": _or_none(_choice("fp32", "fp64")),
    "moe_router_num_groups": _or_none(COUNT),
    "moe_router_group_topk": _or_none(COUNT),
    "moe_input_jitter_eps": _or_none(POSITIVE),
    "moe_token_drop_policy": _choice("probs", "position"),
    "moe_pad_expert_input_to_capacity": FLAG,
    "moe_apply_probs_on_input": FLAG,
    "moe_shared_expert_gate": FLAG,
}


def stored_options(megatron: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``model.megatron`` that a file holds."""
    return {name: value for name, value in megatron.items() if name in STORED_OPTIONS}


def check_option(name: str, value: Any) -> None:
    """Refuses a value that no reader would accept; megatron-core checks other fields.

    Raises:
        UserError: with the key, the value and what is allowed.
    """
    option = STORED_OPTIONS.get(name)
    if option is not None and not option.fits(value):
        refuse(f"model.megatron.{name}", value, f"must be {option.description}")
