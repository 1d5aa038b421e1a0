"""The kinds of parameters that are trained differently: one rule for every family. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Kind = Literal["embedding", "head", "matrix", "vector"]


def parameter_kind(name: str, shape: Sequence[int], *, tied: bool = False) -> Kind:
    """The kind of a parameter, from its name in megatron-core's model and its shape.

    vector: everything with fewer than two dimensions, that is norms, biases and scalars, wherever they are.
    embedding: tables of words and positions (``embedding.``) and value embeddings (``value_embedding``). With
    ``tied``, also the output head: on the last of several pipeline stages it is a copy of the word table.
    head: ``output_layer.``, untied.
    matrix: whatever has two dimensions in the decoder's layers, or three where experts are stacked, including
    routers and gates, however narrow.

    Raises:
        ValueError: the rule does not cover the parameter.
    """
    name = name.removeprefix("module.")  # megatron-core's DDP wrapper.
    if len(shape) < 2:
        return "vector"
    if name.startswith("embedding.") or "value_embedding" in name:
        return "embedding"
    if name.startswith("output_layer."):
        return "embedding" if tied else "head"
    if name.startswith("decoder.layers."):
        return "matrix"
    raise ValueError(f"{name}: no rule says how a parameter of shape {tuple(shape)} is trained")
