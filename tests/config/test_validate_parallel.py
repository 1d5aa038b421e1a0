"""Layouts that the model cannot have, beside those in test_validate.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.schema import ParallelConfig
from recipes.config.validate_parallel import validate_parallel
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.support.expert_models import DENSE, MIXTURE, PARAM_MOE

WINDOWED = replace(DENSE, window_size=8, window_pattern="SL")
TP2 = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True, world_size=2)
CP2 = ParallelConfig(context_parallel_size=2, world_size=2)
CP8 = ParallelConfig(context_parallel_size=8, world_size=8)


def communicating(model: ModelConfig, kind: Any) -> ModelConfig:
    return replace(model, megatron={"cp_comm_type": kind})


def selective(*modules: str) -> ParallelConfig:
    return ParallelConfig(recompute_granularity="selective", recompute_modules=list(modules))


@pytest.mark.parametrize(
    ("model", "parallel", "message"),
    [
        (
            replace(MIXTURE, moe_shared_expert_intermediate_size=None),
            selective("shared_experts"),
            "parallel.recompute_modules=shared_experts: the model has no shared experts; remove it",
        ),
        (
            replace(MIXTURE, moe_ffn_hidden_size=33),
            TP2,
            "parallel.tensor_model_parallel_size=2: does not divide model.moe_ffn_hidden_size=33; choose a "
            "divisor, or set expert_tensor_parallel_size",
        ),
        (
            replace(MIXTURE, moe_ffn_hidden_size=33),
            replace(TP2, expert_tensor_parallel_size=2),
            "parallel.expert_tensor_parallel_size=2: does not divide model.moe_ffn_hidden_size=33; choose",
        ),
        (
            replace(MIXTURE, ffn_hidden_size=129),
            ParallelConfig(expert_tensor_parallel_size=2, world_size=2),
            "parallel.expert_tensor_parallel_size=2: does not divide model.ffn_hidden_size=129; choose",
        ),
        (
            replace(MIXTURE, moe_shared_expert_intermediate_size=63),
            TP2,
            "parallel.tensor_model_parallel_size=2: does not divide "
            "model.moe_shared_expert_intermediate_size=63; choose a divisor",
        ),
        # The shared expert is split as the rest of the model is, whatever the routed ones are.
        (
            replace(MIXTURE, moe_shared_expert_intermediate_size=63),
            replace(TP2, expert_tensor_parallel_size=1),
            "parallel.tensor_model_parallel_size=2: does not divide model.moe_shared_expert",
        ),
        (
            communicating(WINDOWED, "p2p"),
            CP2,
            "model.megatron.cp_comm_type=p2p: the ring has no sliding windows; leave it out (all_gather)",
        ),
        (
            communicating(DENSE, "a2a+p2p"),
            CP2,
            "model.megatron.cp_comm_type=a2a+p2p: choose one of p2p, all_gather, a2a",
        ),
        (communicating(WINDOWED, None), CP2, "model.megatron.cp_comm_type=None: choose one of p2p"),
        (communicating(DENSE, ["a2a"] * 4), CP2, "model.megatron.cp_comm_type=['a2a', 'a2a', 'a2a', 'a2a']:"),
        (
            communicating(DENSE, "a2a"),
            CP8,
            "model.megatron.cp_comm_type=a2a: 4 key-value heads of a rank cannot be shared out to 8",
        ),
        (
            communicating(DENSE, "all_gather"),
            ParallelConfig(),
            "model.megatron.cp_comm_type=all_gather: would be ignored: parallel.context_parallel_size is 1",
        ),
        (DENSE, selective("moe_act"), "parallel.recompute_modules=moe_act: the model has no experts; remove"),
    ],
)
def test_refused(model: ModelConfig, parallel: ParallelConfig, message: str) -> None:
    with pytest.raises(UserError) as refused:
        validate_parallel(parallel, model, check_launcher=False)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("model", "parallel"),
    [
        (replace(MIXTURE, moe_ffn_hidden_size=33), replace(TP2, expert_tensor_parallel_size=1)),
        (replace(MIXTURE, moe_shared_expert_intermediate_size=62), TP2),
        (PARAM_MOE, replace(TP2, expert_tensor_parallel_size=1)),
        (communicating(DENSE, "p2p"), CP2),
        (communicating(WINDOWED, "a2a"), CP2),
        (communicating(WINDOWED, "all_gather"), CP8),
        (MIXTURE, selective("moe_act")),
    ],
)
def test_accepted(model: ModelConfig, parallel: ParallelConfig) -> None:
    validate_parallel(parallel, model, check_launcher=False)
