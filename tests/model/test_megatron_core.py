"""What recipes.config says of megatron-core, without importing it, is true of the one that is installed."""

from __future__ import annotations

import dataclasses
import enum
import typing
from typing import Any

from megatron.core.transformer import TransformerConfig

from recipes.config.megatron_fields import MEGATRON_CHOICES, TRANSFORMER_CONFIG_FIELDS
from recipes.config.stored_options import STORED_OPTIONS
from recipes.config.validate_model import OWNED_MEGATRON_FIELDS, UNUSED_MEGATRON_FIELDS


def test_fields_are_the_installed_ones() -> None:
    assert {field.name for field in dataclasses.fields(TransformerConfig)} == TRANSFORMER_CONFIG_FIELDS


def values_of(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(member.name for member in annotation)
    return tuple(value for part in typing.get_args(annotation) for value in values_of(part))


def test_choices_are_the_installed_ones() -> None:
    annotations = typing.get_type_hints(TransformerConfig)
    choices = {name: values_of(annotation) for name, annotation in annotations.items()}
    # cuda_graph_scope is a list, which megatron-core itself turns into the enum's members.
    elsewhere = {*OWNED_MEGATRON_FIELDS, *UNUSED_MEGATRON_FIELDS, *STORED_OPTIONS, "cuda_graph_scope"}
    expected = {name: values for name, values in choices.items() if values and name not in elsewhere}
    expected["attention_backend"] = tuple(set(expected["attention_backend"]) - {"local"})
    assert {name: set(values) for name, values in MEGATRON_CHOICES.items()} == {
        name: set(values) for name, values in expected.items()
    }
