"""Parameter groups by kind, each with its own peak learning rate and all with the same schedule shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, _get_param_groups, get_standard_config_overrides
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from torch import nn

from recipes.config.schema import OptimConfig
from recipes.optim.kinds import Kind, parameter_kind

Overrides = dict[ParamKey, ParamGroupOverride]
Rates = dict[Kind, float | None]


def adamw_overrides(optim: OptimConfig, config: OptimizerConfig, gpt: GPTModel) -> Overrides:
    """No decay for vectors, and separate rates for embeddings and the head where they are set."""
    overrides: Overrides = get_standard_config_overrides(config)
    # megatron-core's own rule covers one-dimensional parameters only: scalars have no dimension.
    overrides[_key(gpt, ("vector",))] = _override(wd_mult=0.0)
    rates: Rates = {"embedding": optim.embedding_lr, "head": optim.head_lr}
    return overrides | _rates(optim, gpt, rates)


def muon_groups(
    optim: OptimConfig, config: OptimizerConfig, model_chunks: Sequence[DistributedDataParallel]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups of the matrices, for Muon, and those of everything else, for AdamW without decay."""
    gpt = model_chunks[0].module
    rates: Rates = {"embedding": optim.embedding_lr, "head": optim.head_lr, "vector": optim.scalar_lr}
    overrides = _rates(optim, gpt, rates)
    overrides[_key(gpt, ("embedding", "head", "vector"))] = _override(wd_mult=0.0)
    groups = _get_param_groups(list(model_chunks), config, overrides)
    matrices = [group for group in groups if group["wd_mult"] == 1.0]
    return matrices, [group for group in groups if group["wd_mult"] == 0.0]


def _rates(optim: OptimConfig, gpt: GPTModel, rates: Rates) -> Overrides:
    return {
        _key(gpt, (kind,)): _override(max_lr=rate, min_lr=optim.min_lr * rate / optim.lr)
        for kind, rate in rates.items()
        if rate is not None
    }


def _key(gpt: GPTModel, kinds: tuple[Kind, ...]) -> ParamKey:
    tied = gpt.share_embeddings_and_output_weights
    matches: Callable[[nn.Parameter, str], bool] = partial(_is_of_kind, kinds, tied)
    return ParamKey(with_name_predicate=ParamWithNamePredicate(name=" or ".join(kinds), fn=matches))


def _is_of_kind(kinds: tuple[Kind, ...], tied: bool, parameter: nn.Parameter, name: str) -> bool:
    return parameter_kind(name, parameter.shape, tied=tied) in kinds


def _override(**values: float) -> ParamGroupOverride:
    return ParamGroupOverride(**values)
