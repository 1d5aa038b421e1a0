"""One name for every tensor, however it is stored.

The canonical names are those of a megatron-core GPTModel made of Transformer Engine's layers, one per layer
and expert and without a wrapper's prefix: ``decoder.layers.3.self_attention.linear_qkv.weight``,
``decoder.layers.3.mlp.experts.linear_fc1.weight7``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

from recipes.errors import UserError

# Of a GPTModel inside NeMo's model, or inside megatron-core's Float16Module or DDP.
WRAPPERS = ("model.", "module.")
EXTRA_STATE = "_extra_state"
# Computed from the configuration; some versions stored them all the same.
DERIVED = ("rotary_pos_emb.inv_freq", "rotary_emb.inv_freq")

LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
STACKED_LAYERS = "decoder.layers."
STACKED_EXPERTS = ".experts.experts."
ROUTED_EXPERT = re.compile(r"(mlp\.experts\.linear_fc[12]\.[a-z]+)(\d+)")
LOCAL_EXPERT = re.compile(r"(.*\.experts)\.local_experts\.(\d+)\.(.+)")

# NeMo's own GPT from before megatron-core (mcore_gpt: false) -> megatron-core's local layers.
LEGACY_NAMES = (
    (re.compile(r"^language_model\.encoder\.layers\."), "decoder.layers."),
    (re.compile(r"^language_model\.encoder\.final_layernorm\."), "decoder.final_layernorm."),
    (re.compile(r"^language_model\.(embedding|output_layer)\."), r"\1."),
    (
        re.compile(r"^(decoder\.layers\.\d+)\.self_attention\.query_key_value\."),
        r"\1.self_attention.linear_qkv.",
    ),
    (re.compile(r"^(decoder\.layers\.\d+)\.self_attention\.dense\."), r"\1.self_attention.linear_proj."),
    (re.compile(r"^(decoder\.layers\.\d+)\.post_attention_layernorm\."), r"\1.pre_mlp_layernorm."),
    (re.compile(r"^(decoder\.layers\.\d+)\.mlp\.dense_h_to_4h\."), r"\1.mlp.linear_fc1."),
    (re.compile(r"^(decoder\.layers\.\d+)\.mlp\.dense_4h_to_h\."), r"\1.mlp.linear_fc2."),
)
# Local layers store a norm on its own; Transformer Engine's fuse it with the matrix that follows.
LOCAL_NORMS = {
    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
}


def without_wrapper(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def is_derived(name: str) -> bool:
    return name.endswith(DERIVED)


def leading_axes(key: str) -> int:
    """How many axes of a distributed checkpoint's tensor number layers and experts, in this order."""
    layers = key.startswith(STACKED_LAYERS) and LAYER.match(key) is None
    return int(layers) + int(STACKED_EXPERTS in key)


def name_at(key: str, place: tuple[int, ...]) -> str:
    """The name of the tensor at index ``place`` on the leading axes of a distributed checkpoint's ``key``."""
    if STACKED_EXPERTS in key:
        layers, name = key.split(STACKED_EXPERTS, 1)
        key, place = f"{layers}.experts.{name}{place[-1]}", place[:-1]
    if place:
        key = key.replace(STACKED_LAYERS, f"{STACKED_LAYERS}{place[0]}.", 1)
    return key


def numbered_from(layer: int, expert: int, name: str) -> str:
    """The name in the whole model of a rank's tensor; ``layer`` and ``expert`` number its first ones."""
    match = LAYER.fullmatch(name)
    if match is None:
        return name
    rest = ROUTED_EXPERT.sub(lambda own: f"{own[1]}{expert + int(own[2])}", match[2])
    return f"{STACKED_LAYERS}{layer + int(match[1])}.{rest}"


def names_of(key: str, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every index on the leading axes, and the name of the tensor there."""
    for place in product(*map(range, shape[: leading_axes(key)])):
        yield place, name_at(key, place)


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Names of one model's tensors, layers and experts numbered -> their canonical names.

    Raises:
        UserError: two names mean the same tensor.
    """
    plain = {name: _without_local_expert(_modern(without_wrapper(name))) for name in names}
    experts = {
        match[1] for name in plain.values() if (match := LAYER.match(name)) and ".router." in f".{match[2]}"
    }
    canonical: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, short in plain.items():
        match = LAYER.match(short)
        if match:
            short = f"decoder.layers.{match[1]}.{_with_fused_norm(match[2], match[1] in experts)}"
        if short in taken:
            raise UserError(f"{name} and {taken[short]} are the same tensor of the model, {short}")
        taken[short], canonical[name] = name, short
    return canonical


def _modern(name: str) -> str:
    for pattern, replacement in LEGACY_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _without_local_expert(name: str) -> str:
    match = LOCAL_EXPERT.fullmatch(name)
    return f"{match[1]}.{match[3]}{match[2]}" if match else name


def _with_fused_norm(rest: str, has_experts: bool) -> str:
    for local, fused in LOCAL_NORMS.items():
        # Before experts the norm is separate with Transformer Engine too.
        if rest.startswith(local) and not (has_experts and local == "pre_mlp_layernorm."):
            return fused + rest.removeprefix(local)
    return rest
