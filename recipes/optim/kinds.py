"""Which parameters are trained alike: one rule for every family. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Kind = Literal["embedding", "head", "matrix", "vector"]


def parameter_kind(name: str, shape: Sequence[int], *, tied: bool = False) -> Kind:
    """The kind of a parameter by its name in megatron-core's model and its shape.

    vector: everything of fewer than two dimensions, that is norms, biases and scalars, wherever it is.
    embedding: tables of words and positions (``embedding.``) and value embeddings (``value_embedding``). With
    ``tied`` the output head is one too: on the last of several pipeline stages it is the copy of a table.
    head: ``output_layer.``, untied.
    matrix: whatever has two dimensions in the decoder's layers, or three where experts are stacked. Routers
    and gates count, however narrow.

    Raises:
        ValueError: a parameter that the rule does not know.
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
