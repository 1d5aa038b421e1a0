"""model.megatron: what megatron-core would take and then ignore is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.validate_model import validate_model
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.support.expert_models import DENSE, MIXTURE, PARAM_MOE


@pytest.mark.parametrize(
    ("model", "megatron", "message"),
    [
        (DENSE, {"fp8": "foo"}, "fp8=foo: choose one of e4m3, hybrid"),
        (DENSE, {"fp8": True}, "fp8=True: choose one of e4m3, hybrid"),
        (DENSE, {"fp8": "hybrid", "fp8_recipe": "x"}, "fp8_recipe=x: choose one of tensorwise, delayed"),
        (DENSE, {"fp8_recipe": "mxfp8"}, "fp8_recipe=mxfp8: would be ignored: model.megatron.fp8 is not set"),
        (DENSE, {"fp8": "hybrid", "fp4_param": True}, "fp4_param=True: would be ignored: model.megatron.fp4"),
        (
            DENSE,
            {"first_last_layers_bf16": True},
            "first_last_layers_bf16=True: would be ignored: model.megatron.fp8 or fp4 is not set",
        ),
        (DENSE, {"attention_backend": "flsh"}, "attention_backend=flsh: choose one of flash, fused, unfused"),
        (DENSE, {"attention_backend": "local"}, "attention_backend=local: choose one of flash, fused"),
        (DENSE, {"log_max_attention_logit": True}, "log_max_attention_logit=True: the llama family does not"),
        (DENSE, {"qk_clip": True}, "qk_clip=True: the llama family does not use it; remove it"),
        (DENSE, {"use_te_activation_func": True}, "use_te_activation_func=True: the llama family does not"),
        (DENSE, {"transformer_impl": "local"}, "transformer_impl=local: set nothing (Transformer Engine"),
        (
            PARAM_MOE,
            {"moe_input_jitter_eps": 0.1},
            "moe_input_jitter_eps=0.1: the param_moe family does not use it; remove it",
        ),
        (
            PARAM_MOE,
            {"moe_router_force_load_balancing": True},
            "moe_router_force_load_balancing=True: the param_moe family does not use it; remove it",
        ),
    ],
)
def test_refused(model: ModelConfig, megatron: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        validate_model(replace(model, megatron=megatron))
    assert str(refused.value).startswith(f"model.megatron.{message}")


@pytest.mark.parametrize(
    ("model", "megatron"),
    [
        (DENSE, {"fp8": "hybrid", "fp8_recipe": "delayed", "fp8_margin": 1}),
        (DENSE, {"fp4": "e2m1", "fp4_recipe": "nvfp4", "num_layers_at_end_in_bf16": 1}),
        (DENSE, {"fp8": None, "attention_backend": "flash"}),
        (MIXTURE, {"moe_input_jitter_eps": 0.1, "moe_router_force_load_balancing": True}),
    ],
)
def test_accepted(model: ModelConfig, megatron: dict[str, Any]) -> None:
    validate_model(replace(model, megatron=megatron))
