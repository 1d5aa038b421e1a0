"""The key of a distributed checkpoint under which a tensor of one layer or expert is stored."""

from __future__ import annotations

import re

from recipes.checkpoint.formats.names import LAYER
from recipes.families.family import layers_are_stacked
from recipes.families.model_config import ModelConfig

EXPERT = re.compile(r"(.*\.experts)\.(linear_fc[12]\.\w+?)(\d+)")


def key_of(name: str, model: ModelConfig) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Key, index on its leading axes, and their lengths, for a canonical name (formats/names.py).

    Example:
        >>> key_of("decoder.layers.3.mlp.linear_fc2.weight", dense_model)
        ("decoder.layers.mlp.linear_fc2.weight", (3,), (32,))
    """
    place: tuple[int, ...] = ()
    stack: tuple[int, ...] = ()
    key = name
    layer = LAYER.fullmatch(name)
    if layer is not None and layers_are_stacked(model):
        key = f"decoder.layers.{layer[2]}"
        place, stack = (int(layer[1]),), (model.num_layers,)
    expert = EXPERT.fullmatch(key)
    if expert is not None:
        assert model.num_moe_experts is not None
        key = f"{expert[1]}.experts.{expert[2]}"
        place, stack = (*place, int(expert[3])), (*stack, model.num_moe_experts)
    return key, place, stack
