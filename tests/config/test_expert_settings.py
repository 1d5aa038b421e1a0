"""Settings of mixtures of experts that are refused, each with one line that names key, value and fix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from recipes.config.schema import ParallelConfig
from recipes.config.validate_model import validate_model
from recipes.config.validate_parallel import validate_parallel
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.support.expert_models import MIXTURE, PARAM_MOE


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            replace(PARAM_MOE, moe_router_topk=4),
            "model.moe_load_loss_coeff=0.1: every expert is always chosen; set 0",
        ),
        (
            replace(MIXTURE, add_bias_linear=True),
            "model.add_bias_linear=True: experts of the llama family have no biases; remove it",
        ),
        (
            replace(MIXTURE, moe_router_topk=1),
            "model.moe_router_topk=1: the softmax over one chosen expert is always 1: set",
        ),
        (replace(MIXTURE, moe_z_loss_coeff=-1.0), "model.moe_z_loss_coeff=-1.0: must not be negative"),
        (replace(MIXTURE, moe_z_loss_coeff=math.nan), "model.moe_z_loss_coeff=nan: must not be negative"),
        (replace(MIXTURE, moe_z_loss_coeff=math.inf), "model.moe_z_loss_coeff=inf: must not be negative"),
        (replace(MIXTURE, moe_aux_loss_coeff=math.nan), "model.moe_aux_loss_coeff=nan: must not be negative"),
    ],
)
def test_refused_models(model: ModelConfig, message: str) -> None:
    validate_model(MIXTURE)
    validate_model(PARAM_MOE)
    with pytest.raises(UserError) as refused:
        validate_model(model)
    assert str(refused.value).startswith(message)


def test_experts_with_biases_are_not_split() -> None:
    split = ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True, world_size=2)
    validate_parallel(split, MIXTURE, check_launcher=False)
    validate_parallel(replace(split, expert_tensor_parallel_size=1), PARAM_MOE, check_launcher=False)
    with pytest.raises(UserError) as refused:
        validate_parallel(split, PARAM_MOE, check_launcher=False)
    assert str(refused.value).startswith(
        "parallel.expert_tensor_parallel_size=None: experts with biases cannot be split"
    )
