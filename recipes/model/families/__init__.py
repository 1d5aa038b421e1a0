"""The layers of every model family: one file each, which exports LAYERS.

The part of a family that needs no torch is in recipes/families; its ``layers`` names the file here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recipes.families.family import family_of
from recipes.families.model_config import ModelConfig
from recipes.model.initial_values import InitialValues, megatron_initial_values

if TYPE_CHECKING:
    from megatron.core.models.backends import BackendSpecProvider
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules


@dataclass(frozen=True)
class Decoding:
    """What recipes/inference/decode has to know of a family besides its settings and its table of tensors.

    It computes pre-norm transformer layers with whatever optional tensors the table has: biases, norms of
    queries and keys, norms after sub-layers, experts, value embeddings, residual mixing. A norm that the
    settings ask for and that has no tensor is an RMSNorm without gain.
    """

    scales_embedding: bool = False
    """Word embeddings are multiplied by sqrt(hidden_size), rounded to the weights' dtype."""
    norms_embedding: bool = False
    """Word embeddings are normed, without gain."""


@dataclass(frozen=True)
class FamilyLayers:
    """How a family is built from a :class:`ModelConfig`."""

    block_spec: Callable[[ModelConfig, TransformerConfig, BackendSpecProvider], TransformerBlockSubmodules]
    """This pipeline stage's layers and the final norm."""
    gpt_model: type[GPTModel]
    """megatron-core's GPTModel; or recipes.model.gpt.GPTModel or a subclass of it, which also take ``model``,
    as ``description``."""
    initial_values: Callable[[str, int, ModelConfig], InitialValues] = megatron_initial_values
    """``(canonical name, fan-in, model)`` -> the values that a parameter is filled with before training."""
    decoding: Decoding | None = None
    """For fast completion; None: the family is completed by megatron-core's own forward pass."""


def layers_of(model: ModelConfig) -> FamilyLayers:
    """The layers of the model's family; imports the file that defines them."""
    layers: FamilyLayers = importlib.import_module(family_of(model).layers).LAYERS
    return layers
