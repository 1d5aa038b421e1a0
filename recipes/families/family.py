"""What is known of a model family without tensors, and how a family is found by its name. No torch here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from recipes.checks import refuse
from recipes.families.model_config import ModelConfig, window_pattern
from recipes.families.tensors import TensorSpec
from recipes.families.values import Values

PACKAGE = "recipes.families"
ENTRY_POINTS = "param_recipes.families"
"""The entry-point group in which an installed package names families of its own."""


@dataclass(frozen=True)
class Architecture:
    """A class that computes a described model with transformers."""

    name: str
    model_type: str
    remote_code: Path | None = None
    """The file that leaves with the weights where transformers has no class: modeling_<model_type>.py."""


def nothing_more(model: ModelConfig) -> None:
    """For families whose settings need no further check."""


@dataclass(frozen=True)
class Family:
    """One model family. Its layers and initial values are the module ``layers``, which needs torch."""

    name: str
    layers: str
    """The module with the layers: it exports LAYERS, see recipes/model/families."""
    tensors: Callable[[ModelConfig], list[TensorSpec]]
    """The table of its tensors, see tensors.py."""
    settings: frozenset[str]
    """Keys of ModelConfig that the family uses beside the common ones; others must keep their defaults."""
    architecture: Callable[[ModelConfig], Architecture]
    """The transformers class that computes exactly this model; raises UserError where there is none."""
    to_hugging_face: Callable[[ModelConfig], dict[str, Any]]
    """Keys of config.json beside those that every class has."""
    from_hugging_face: Mapping[str, Callable[[Values], dict[str, Any]]]
    """``model_type`` of config.json -> fields of ModelConfig beside those that every class has."""
    config_keys: frozenset[str] = frozenset()
    """Keys of config.json that the family reads although others compute one value of them only."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of ModelConfig of which the family has only these values."""
    check: Callable[[ModelConfig], None] = nothing_more
    """Refuses further combinations of settings."""
    refused_layouts: Mapping[str, str] = field(default_factory=dict)
    """Sizes of ParallelConfig that must stay 1, and why."""
    refused_megatron_fields: Mapping[str, str] = field(default_factory=dict)
    """Fields of model.megatron that must not be turned on, and why."""
    unused_megatron_fields: tuple[str, ...] = ()
    """Fields of model.megatron that the family's own modules do not read, though megatron-core's do."""
    megatron_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TransformerConfig that the family itself sets."""
    layer_windows: Callable[[ModelConfig], list[int | None]] = window_pattern
    """For each layer the tokens it attends to, the query's own among them; None: all before it."""
    routers_draw_noise: bool = False
    """Whether a training step draws random numbers without dropout too."""
    classic_nemo: bool = False
    """Whether classic NeMo's MegatronGPTModel computes the family, from the settings that it knows."""

    def __post_init__(self) -> None:
        for setting, values in self.choices.items():
            assert values, f"{self.name}: no value is left for {setting}"


def known_families() -> list[str]:
    """The names of all families, those of installed packages last."""
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
    """A family is a module of this package that says so: it has a twin among recipes/model/families."""
    layers = Path(__file__).parents[1] / "model" / "families"
    modules = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return frozenset(modules & {module.name for module in pkgutil.iter_modules([str(layers)])})


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Read only when a name is not one of ours: it looks through everything that is installed."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def tensor_table(model: ModelConfig) -> list[TensorSpec]:
    """Every tensor of the model, each once, in the order of the layers."""
    return family_of(model).tensors(model)


def layer_windows(model: ModelConfig) -> list[int | None]:
    """For each layer the tokens it attends to, the query's own among them; None: all before it."""
    return family_of(model).layer_windows(model)


# megatron-core's own routers draw for these.
RANDOM_MEGATRON_FIELDS = ("moe_input_jitter_eps", "moe_router_force_load_balancing")


def draws_random_numbers(model: ModelConfig) -> bool:
    """Whether a training step draws any: for dropout, or in routers."""
    return (
        model.hidden_dropout > 0
        or model.attention_dropout > 0
        or family_of(model).routers_draw_noise
        or any(model.megatron.get(field) for field in RANDOM_MEGATRON_FIELDS)
    )


def layers_are_stacked(model: ModelConfig) -> bool:
    """Whether megatron-core stores all layers' tensors of a name as one; unequal layers it numbers."""
    heterogeneous = family_of(model).megatron_fields.get("hetereogenous_dist_checkpoint", False)
    return model.num_moe_experts is None and not heterogeneous
