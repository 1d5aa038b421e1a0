"""A ModelConfig to and from this project's files: plain data that a stranger may have written."""

from __future__ import annotations

import dataclasses
import math
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from recipes.config.stored_options import STORED_OPTIONS, stored_options
from recipes.console import shown
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig


def description_of(model: ModelConfig) -> dict[str, Any]:
    """The model as files hold it, without the options that only say how a run computes it."""
    return dataclasses.asdict(dataclasses.replace(model, megatron=stored_options(model.megatron)))


def described_model(description: Any, stored_rows: int) -> ModelConfig:
    """The ModelConfig that is written out under ``recipes.model``."""
    if not isinstance(description, dict):
        raise UserError("model_config.yaml: recipes.model is not a mapping")
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    for key in description:
        if key not in known:
            raise UserError(f"model_config.yaml: recipes.model.{shown(key)} is not a setting of a model")
    megatron = stored_megatron(description.get("megatron"), "recipes.model.megatron")
    return typed_model(**{**description, "make_vocab_size_divisible_by": stored_rows, "megatron": megatron})


def stored_megatron(megatron: Any, label: str) -> dict[str, Any]:
    """Options for megatron-core that a file sets, all of them known to change nothing but arithmetic."""
    if megatron is None:
        return {}
    if not isinstance(megatron, dict):
        raise UserError(f"model_config.yaml: {label} is not a mapping")
    for name, value in megatron.items():
        if not isinstance(name, str) or name not in STORED_OPTIONS:
            raise UserError(
                f"model_config.yaml: {label}.{shown(name)} is refused: a file may only set the options that "
                "change what the model computes (recipes/config/stored_options.py)"
            )
        if not STORED_OPTIONS[name].fits(value):
            description = STORED_OPTIONS[name].description
            raise UserError(f"model_config.yaml: {label}.{name}={shown(value)} must be {description}")
    return megatron


def typed_model(**values: Any) -> ModelConfig:
    """The ModelConfig of a file's values; a value of another type than the schema's is refused."""
    hints = get_type_hints(ModelConfig)
    for field in dataclasses.fields(ModelConfig):
        if field.name not in values:
            if field.default is MISSING:
                raise UserError(f"model_config.yaml: {field.name} is missing")
            continue
        value, (wanted, *others) = values[field.name], _types(hints[field.name])
        if value is None and NoneType in others:
            continue
        value = _converted(value, wanted)
        if value is None:
            raise UserError(
                f"model_config.yaml: {field.name}={shown(values[field.name])} is not of type "
                f"{wanted.__name__}{' | None' * (NoneType in others)}"
            )
        values[field.name] = value
    return ModelConfig(**values)


def _types(hint: Any) -> tuple[type, ...]:
    """Of a field; of a size that may be "auto" in a run, the number, which is what is stored, comes first."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(get_origin(part) or part for part in parts)


def _converted(value: Any, wanted: type) -> Any:
    """``value`` as the wanted type; None if it has another type."""
    if wanted is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None
    if wanted in (bool, str):
        return value if type(value) is wanted else None
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # A string too: YAML 1.1 reads 1e-5, without a point, as one.
    except (TypeError, ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    if wanted is int:
        return int(number) if number.is_integer() and not isinstance(value, str) else None
    assert wanted is float, wanted
    return number
