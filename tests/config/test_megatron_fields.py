"""model.megatron: what megatron-core would take and then ignore is refused."""

from __future__ import annotations

import enum
import typing
from dataclasses import replace
from typing import Any

import pytest

from recipes.config.megatron_fields import MEGATRON_CHOICES
from recipes.config.stored_options import STORED_OPTIONS
from recipes.config.validate_model import OWNED_MEGATRON_FIELDS, UNUSED_MEGATRON_FIELDS, validate_model
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from tests.config.test_expert_settings import MIXTURE, PARAM_MOE

DENSE = replace(MIXTURE, num_moe_experts=None)


def values_of(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(member.name for member in annotation)
    return tuple(value for part in typing.get_args(annotation) for value in values_of(part))


def test_choices_are_the_installed_ones() -> None:
    from tests.support.engine import torch

    assert torch is not None
    from megatron.core.transformer import TransformerConfig

    annotations = typing.get_type_hints(TransformerConfig)
    choices = {name: values_of(annotation) for name, annotation in annotations.items()}
    # cuda_graph_scope is a list, which megatron-core itself turns into the enum's members.
    elsewhere = {*OWNED_MEGATRON_FIELDS, *UNUSED_MEGATRON_FIELDS, *STORED_OPTIONS, "cuda_graph_scope"}
    expected = {name: values for name, values in choices.items() if values and name not in elsewhere}
    expected["attention_backend"] = tuple(set(expected["attention_backend"]) - {"local"})
    assert {name: set(values) for name, values in MEGATRON_CHOICES.items()} == {
        name: set(values) for name, values in expected.items()
    }


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


def test_the_noisy_router_reads_neither_jitter_nor_forced_balance() -> None:
    """Why param_moe refuses them: megatron-core's router applies both where ours takes its place."""
    from tests.support.engine import torch

    assert torch is not None
    from megatron.core.transformer.moe.router import TopKRouter

    from recipes.model.noisy_router import NoisyTopKRouter

    read = {"apply_input_jitter", "moe_router_force_load_balancing"}
    assert read <= set(TopKRouter.forward.__code__.co_names)
    assert not read & set(NoisyTopKRouter.forward.__code__.co_names)
