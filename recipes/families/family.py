"""The description of a model family without its layers, and the lookup of families by name. No torch here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from recipes.checks import refuse
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig, window_pattern
from recipes.families.tensors import TensorSpec
from recipes.families.values import Values

PACKAGE = "recipes.families"
ENTRY_POINTS = "param_recipes.families"
"""The entry-point group in which installed packages register their own families."""


@dataclass(frozen=True)
class Architecture:
    """A class that computes a described model with transformers."""

    name: str
    model_type: str
    remote_code: Path | None = None
    """The file to export with the weights if transformers has no class: modeling_<model_type>.py."""


def no_further_check(model: ModelConfig) -> None:
    """For families whose settings need no further check."""


@dataclass(frozen=True)
class Layout:
    """The names and settings under which a Hugging Face directory holds a family's model."""

    architecture: Callable[[ModelConfig], Architecture]
    """The class that computes exactly this model; raises UserError if it does not."""
    tensors: Callable[[ModelConfig], list[TensorSpec]]
    """The family's table with this layout's names."""
    to_hugging_face: Callable[[ModelConfig], dict[str, Any]]
    """Keys of config.json besides those that every class has."""


@dataclass(frozen=True)
class Family:
    """One model family. Its layers and initial values are in the module ``layers``, which needs torch."""

    name: str
    layers: str
    """The module with the layers: it exports LAYERS, see recipes/model/families."""
    tensors: Callable[[ModelConfig], list[TensorSpec]]
    """The table of its tensors, see tensors.py."""
    settings: frozenset[str]
    """Keys of ModelConfig that the family uses besides the common ones; others must keep their defaults."""
    architecture: Callable[[ModelConfig], Architecture]
    """The transformers class that computes exactly this model; raises UserError if there is none."""
    to_hugging_face: Callable[[ModelConfig], dict[str, Any]]
    """Keys of config.json besides those that every class has."""
    from_hugging_face: Mapping[str, Callable[[Values], dict[str, Any]]]
    """``model_type`` of config.json -> fields of ModelConfig besides those that every class has."""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    """Other layouts than these, each by its ``model_type``."""
    config_keys: frozenset[str] = frozenset()
    """Keys of config.json that the family reads, although other families support only one value of them."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of ModelConfig for which the family supports only these values."""
    check: Callable[[ModelConfig], None] = no_further_check
    """Refuses combinations of settings."""
    refused_layouts: Mapping[str, str] = field(default_factory=dict)
    """Sizes of ParallelConfig that must stay 1, and why."""
    refused_megatron_fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of model.megatron that must not be turned on, and why."""
    unused_megatron_fields: tuple[str, ...] = ()
    """Fields of model.megatron that megatron-core's modules read but the family's own do not."""
    megatron_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TransformerConfig that the family itself sets."""
    layer_windows: Callable[[ModelConfig], list[int | None]] = window_pattern
    """For each layer the tokens it attends to, including the query's own; None: all before it."""
    routers_draw_noise: bool = False
    """Whether a training step draws random numbers even without dropout."""
    classic_nemo: bool = False
    """Whether classic NeMo's MegatronGPTModel can compute the family from the settings that it knows."""

    def __post_init__(self) -> None:
        for setting, values in self.choices.items():
            assert values, f"{self.name}: no value is left for {setting}"


def layout_of(model: ModelConfig, name: str | None = None) -> Layout:
    """A layout of Hugging Face directories; None: the family's usual one.

    Raises:
        UserError: the family has none of that name.
    """
    family = family_of(model)
    if name is None:
        return Layout(family.architecture, family.tensors, family.to_hugging_face)
    if name not in family.layouts:
        known = ", ".join(family.layouts) or "none but its usual one"
        raise UserError(f"layout {name}: the family {family.name} has no such layout; it has {known}")
    return family.layouts[name]


def known_families() -> list[str]:
    """The names of all families, with those of installed packages last."""
    own = sorted(_own_modules())
    return own + sorted(name for name in _entry_points() if name not in own)


@cache
def find_family(name: str) -> Family:
    """The family of that name.

    Raises:
        UserError: there is none.
    """
    if name in _own_modules():
        return _checked(name, importlib.import_module(f"{PACKAGE}.{name}"))
    if name not in _entry_points():
        refuse("model.family", name, f"known families: {', '.join(known_families())}")
    return _checked(name, _entry_points()[name].load())


def family_of(model: ModelConfig) -> Family:
    """The family of a described model; raises as :func:`find_family`."""
    return find_family(model.family)


def _checked(name: str, module: Any) -> Family:
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, Family) or family.name != name:
        raise TypeError(f"{module.__name__} must export FAMILY, a Family with name={name!r}")
    return family


@cache
def _own_modules() -> frozenset[str]:
    """Modules of this package that are families: those with a counterpart in recipes/model/families."""
    layers = Path(__file__).parents[1] / "model" / "families"
    modules = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return frozenset(modules & {module.name for module in pkgutil.iter_modules([str(layers)])})


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Read only for names that are not ours, as it searches everything that is installed."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def tensor_table(model: ModelConfig) -> list[TensorSpec]:
    """Every tensor of the model, each once, in layer order."""
    return list(_table(_ByValue(model)))


class _ByValue:
    """A described model as a key: its dictionary of further fields makes it unhashable."""

    def __init__(self, model: ModelConfig) -> None:
        self.model, self.text = model, repr(model)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByValue) and self.text == other.text


@lru_cache(maxsize=8)  # A plan asks for the same model's table thousands of times.
def _table(key: _ByValue) -> list[TensorSpec]:
    return family_of(key.model).tensors(key.model)


def layer_windows(model: ModelConfig) -> list[int | None]:
    """For each layer the tokens it attends to, including the query's own; None: all before it."""
    return family_of(model).layer_windows(model)


# With these, megatron-core's own routers draw random numbers.
RANDOM_MEGATRON_FIELDS = ("moe_input_jitter_eps", "moe_router_force_load_balancing")


def draws_random_numbers(model: ModelConfig) -> bool:
    """Whether a training step draws random numbers, for dropout or in routers."""
    return (
        model.hidden_dropout > 0
        or model.attention_dropout > 0
        or family_of(model).routers_draw_noise
        or any(model.megatron.get(field) for field in RANDOM_MEGATRON_FIELDS)
    )


def layers_are_stacked(model: ModelConfig) -> bool:
    """Whether megatron-core stores a tensor of all layers stacked as one; unequal layers are numbered."""
    heterogeneous = family_of(model).megatron_fields.get("hetereogenous_dist_checkpoint", False)
    return model.num_moe_experts is None and not heterogeneous
