"""Which parameters the patterns of ``optim.groups`` take. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from recipes.checks import not_negative, refuse
from recipes.config.optim_schema import GroupConfig, OptimConfig
from recipes.families.family import tensor_table
from recipes.families.model_config import ModelConfig


def matching_names(group: GroupConfig, names: Iterable[str]) -> list[str]:
    """The names that a group's pattern takes; ``*`` stands for dots, too."""
    return [name for name in names if fnmatchcase(name, group.pattern)]


def parameter_names(model: ModelConfig) -> list[str]:
    """Names of the model's parameters, those of its checkpoints under every layout."""
    return [spec.name for spec in tensor_table(model) if spec.trained]


def group_of(optim: OptimConfig, name: str) -> GroupConfig | None:
    """The group that a parameter belongs to."""
    return next((group for group in optim.groups if matching_names(group, [name])), None)


def validate_groups(optim: OptimConfig, model: ModelConfig) -> None:
    """Refuses groups that change nothing or take nothing, and parameters that two of them take."""
    names = parameter_names(model) if optim.groups else []
    taken: dict[str, int] = {}
    for number, group in enumerate(optim.groups):
        key = f"optim.groups[{number}]"
        _validate_values(key, group)
        found = matching_names(group, names)
        if not found:
            refuse(f"{key}.pattern", group.pattern, f"matches no parameter; they are called like {names[1]}")
        for name in found:
            if name in taken:
                other = f"optim.groups[{taken[name]}].pattern={optim.groups[taken[name]].pattern}"
                refuse(f"{key}.pattern", group.pattern, f"takes {name}, which {other} takes too")
            taken[name] = number


def _validate_values(key: str, group: GroupConfig) -> None:
    for name in ("lr", "lr_mult", "weight_decay"):
        value = getattr(group, name)
        if value is not None:
            not_negative(f"{key}.{name}", value)
    if group.lr is not None and group.lr_mult != 1.0:
        refuse(f"{key}.lr_mult", group.lr_mult, f"{key}.lr={group.lr} says it already; leave one of both out")
    if group.lr is None and group.weight_decay is None and group.lr_mult == 1.0:
        refuse(f"{key}.pattern", group.pattern, "nothing is different; give lr, lr_mult or weight_decay")
