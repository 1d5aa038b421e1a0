"""Which rate and decay each parameter of a built model is trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
)
from megatron.core.optimizer_param_scheduler import get_canonical_lr_for_logging

from recipes.config.optim_schema import GroupConfig
from recipes.config.schema import OptimConfig, ParallelConfig
from recipes.families.model_config import ModelConfig
from recipes.optim.build import build_optimizer, uses_distributed_optimizer
from recipes.optim.learning_rate import LearningRate
from tests.support.configs import schedule_of_run
from tests.support.engine import TINY, initialized, process_groups

Rates = dict[str, tuple[float, float, float]]


def rates(optim: OptimConfig, model: ModelConfig) -> tuple[Rates, float | None]:
    """Per parameter (rate after 5 of 10 linear steps, at the end, decay), and the rate that is logged."""
    with process_groups():
        gpt = initialized(model)
        config = DistributedDataParallelConfig(use_distributed_optimizer=uses_distributed_optimizer(optim))
        ddp = DistributedDataParallel(gpt.config, config, gpt)
        optimizer: Any = build_optimizer(optim, ParallelConfig(), torch.float32, [ddp])
        follow = LearningRate(optim, schedule_of_run(optim, 10), optimizer)
        follow.set(5)
        logged = get_canonical_lr_for_logging(optimizer.param_groups)
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        if optim.name == "adamw":  # Its groups hold float32 shards of the parameters.
            (one,) = optimizer.chained_optimizers
            places = one.model_param_group_index_map
            groups = {id(p): one.param_groups[place[0]] for p, place in places.items()}
        middle = {name: dict(groups[id(p)]) for name, p in gpt.named_parameters()}
        follow.set(10)
        return {
            name: (middle[name]["lr"], groups[id(p)]["lr"], groups[id(p)]["weight_decay"])
            for name, p in gpt.named_parameters()
        }, logged


SCHEDULE: dict[str, Any] = {"lr_decay_style": "linear", "lr": 1e-3, "min_lr": 1e-4, "weight_decay": 0.3}
UNTIED = ModelConfig(**{**vars(TINY), "share_embeddings_and_output_weights": False})
TIED = ModelConfig(**{**vars(TINY), "share_embeddings_and_output_weights": True})


def kinds(found: Rates) -> dict[str, set[tuple[float, ...]]]:
    out: dict[str, set[tuple[float, ...]]] = {
        "embedding": set(),
        "head": set(),
        "matrix": set(),
        "norm": set(),
    }
    for name, values in found.items():
        kind = "norm" if "norm" in name else "matrix"
        kind = {"embedding": "embedding", "output_layer": "head"}.get(name.split(".")[0], kind)
        out[kind].add(tuple(round(value, 12) for value in values))
    return out


def test_adamw_as_it_was() -> None:
    found, logged = rates(OptimConfig(**SCHEDULE), UNTIED)
    assert kinds(found) == {
        "embedding": {(5.5e-4, 1e-4, 0.3)},
        "head": {(5.5e-4, 1e-4, 0.3)},
        "matrix": {(5.5e-4, 1e-4, 0.3)},
        "norm": {(5.5e-4, 1e-4, 0.0)},
    }
    assert logged == pytest.approx(5.5e-4)


def test_adamw_with_rates_of_their_own() -> None:
    found, logged = rates(OptimConfig(**SCHEDULE, embedding_lr=1e-2, head_lr=2e-3), UNTIED)
    assert kinds(found) == {
        "embedding": {(5.5e-3, 1e-3, 0.3)},
        "head": {(1.1e-3, 2e-4, 0.3)},
        "matrix": {(5.5e-4, 1e-4, 0.3)},
        "norm": {(5.5e-4, 1e-4, 0.0)},
    }
    assert logged == pytest.approx(5.5e-4)


@pytest.mark.parametrize("model", [UNTIED, TIED], ids=["untied", "tied"])
def test_muon(model: ModelConfig) -> None:
    head = None if model is TIED else 2e-3
    optim = OptimConfig(name="muon", **SCHEDULE, embedding_lr=1e-2, head_lr=head, scalar_lr=5e-3)
    found, logged = rates(optim, model)
    assert kinds(found) == {
        "embedding": {(5.5e-3, 1e-3, 0.0)},
        "head": set() if model is TIED else {(1.1e-3, 2e-4, 0.0)},
        "matrix": {(5.5e-4, 1e-4, 0.3)},
        "norm": {(2.75e-3, 5e-4, 0.0)},
    }
    assert logged == pytest.approx(5.5e-4)


def test_groups_by_name_with_adamw() -> None:
    groups = [
        GroupConfig("embedding.*", lr=3e-3, weight_decay=0.0),
        GroupConfig("decoder.layers.[01].*.linear_qkv.weight", lr_mult=0.5),
        GroupConfig("decoder.final_layernorm.*", weight_decay=0.7),
    ]
    found, logged = rates(OptimConfig(**SCHEDULE, embedding_lr=1e-2, groups=groups), UNTIED)
    rounded = {name: tuple(round(value, 12) for value in values) for name, values in found.items()}
    assert rounded["embedding.word_embeddings.weight"] == (1.65e-3, 3e-4, 0.0)
    for layer in range(4):
        qkv = rounded[f"decoder.layers.{layer}.self_attention.linear_qkv.weight"]
        assert qkv == ((2.75e-4, 5e-5, 0.3) if layer < 2 else (5.5e-4, 1e-4, 0.3))
    assert rounded["decoder.final_layernorm.weight"] == (5.5e-4, 1e-4, 0.7)
    assert rounded["output_layer.weight"] == (5.5e-4, 1e-4, 0.3)
    assert logged == pytest.approx(5.5e-4)


def test_groups_by_name_with_muon() -> None:
    groups = [
        GroupConfig("embedding.*", weight_decay=0.2),
        GroupConfig("*.linear_fc2.weight", lr_mult=2.0, weight_decay=0.0),
    ]
    found, _ = rates(OptimConfig(name="muon", **SCHEDULE, embedding_lr=1e-2, groups=groups), UNTIED)
    rounded = {name: tuple(round(value, 12) for value in values) for name, values in found.items()}
    assert rounded["embedding.word_embeddings.weight"] == (5.5e-3, 1e-3, 0.2)
    assert rounded["decoder.layers.1.mlp.linear_fc2.weight"] == (1.1e-3, 2e-4, 0.0)
    assert rounded["decoder.layers.1.mlp.linear_fc1.weight"] == (5.5e-4, 1e-4, 0.3)


def test_a_group_may_take_everything() -> None:
    found, logged = rates(OptimConfig(**SCHEDULE, groups=[GroupConfig("*", lr=0.0, weight_decay=0.1)]), TIED)
    assert set(found.values()) == {(0.0, 0.0, 0.1)} and logged is None
