"""Model families: each is a file of layer specs that exports ``FAMILY``; its torch-free rules are in
recipes/config/families.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.config.schema import ModelConfig
from recipes.model.initial_values import InitialValues, megatron_initial_values

if TYPE_CHECKING:
    from megatron.core.models.backends import BackendSpecProvider
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules


def no_further_fields(model: ModelConfig) -> dict[str, Any]:
    """For families that megatron-core's configuration describes by itself."""
    return {}


@dataclass(frozen=True)
class Family:
    """How a family is built from a :class:`ModelConfig`."""

    block_spec: Callable[[ModelConfig, TransformerConfig, BackendSpecProvider], TransformerBlockSubmodules]
    """This pipeline stage's layers and the final norm."""
    gpt_model: type[GPTModel]
    """megatron-core's GPTModel, or a subclass that takes ``model`` too as ``description``."""
    config_fields: Callable[[ModelConfig], dict[str, Any]] = no_further_fields
    """Fields of TransformerConfig beside those that recipes/model/build.py sets for every family."""
    initial_values: Callable[[str, int, ModelConfig], InitialValues] = megatron_initial_values
    """``(canonical name, fan-in, model)`` -> what a parameter is filled with before training."""


def load_family(name: str) -> Family:
    """Imports the family's file."""
    family: Family = importlib.import_module(f"recipes.model.families.{name}").FAMILY
    return family
