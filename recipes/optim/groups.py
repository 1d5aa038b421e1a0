"""Parameter groups by kind and by name, each with its own rates and all with the same schedule's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, _get_param_groups
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from torch import Tensor, nn

from recipes.config.optim_schema import OptimConfig
from recipes.config.parameter_groups import group_of
from recipes.optim.kinds import Kind, parameter_kind

Overrides = dict[ParamKey, ParamGroupOverride]
Names = Mapping[Tensor, str]
"""Parameters -> their names in checkpoints, which optim.groups go by."""


def adamw_overrides(optim: OptimConfig, gpt: GPTModel, names: Names) -> Overrides:
    """No decay for vectors, and separate rates for embeddings and the head where they are set."""
    return _overrides(optim, gpt, names, decayed=("embedding", "head", "matrix"))


def muon_groups(
    optim: OptimConfig,
    config: OptimizerConfig,
    model_chunks: Sequence[DistributedDataParallel],
    names: Names,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups of the matrices, for Muon, and those of everything else, for AdamW and without decay."""
    overrides = _overrides(optim, model_chunks[0].module, names, decayed=("matrix",))
    groups = _get_param_groups(list(model_chunks), config, overrides)
    matrices = [group for group in groups if group.get("with_muon")]
    return matrices, [group for group in groups if not group.get("with_muon")]


def _overrides(optim: OptimConfig, gpt: GPTModel, names: Names, *, decayed: tuple[Kind, ...]) -> Overrides:
    """What differs from the optimizer's defaults, for the parameters that share it.

    ``decayed``: the kinds that optim.weight_decay is meant for.
    """
    members: dict[tuple[tuple[str, float], ...], set[int]] = {}
    for name, parameter in gpt.named_parameters():
        kind = parameter_kind(name, parameter.shape, tied=gpt.share_embeddings_and_output_weights)
        values = _differences(optim, kind, names.get(parameter, name), decays=kind in decayed)
        if values:
            members.setdefault(tuple(sorted(values.items())), set()).add(id(parameter))
    return {_key(index, own): _override(dict(values)) for index, (values, own) in enumerate(members.items())}


def _differences(optim: OptimConfig, kind: Kind, name: str, *, decays: bool) -> dict[str, float]:
    rates: dict[Kind, float | None] = {"embedding": optim.embedding_lr, "head": optim.head_lr}
    if optim.name == "muon":
        rates["vector"] = optim.scalar_lr
    given = rates.get(kind)
    rate = optim.lr if given is None else given
    values: dict[str, float] = {} if decays else {"wd_mult": 0.0}
    group = group_of(optim, name)
    if group is not None:
        rate = rate * group.lr_mult if group.lr is None else group.lr
        if group.weight_decay is not None:
            # Not as a multiple of optim.weight_decay, which may be 0.
            values = {"start_wd": group.weight_decay, "end_wd": group.weight_decay}
    if given is not None or rate != optim.lr:
        values |= {"max_lr": rate, "min_lr": optim.min_lr * rate / optim.lr}
    if optim.name == "muon" and kind == "matrix":
        values["with_muon"] = True
    return values


def _key(index: int, members: set[int]) -> ParamKey:
    def is_member(parameter: nn.Parameter, _: str) -> bool:
        return id(parameter) in members

    return ParamKey(with_name_predicate=ParamWithNamePredicate(name=str(index), fn=is_member))


def _override(values: Mapping[str, float]) -> ParamGroupOverride:
    return ParamGroupOverride(**values)
