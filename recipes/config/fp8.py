"""trainer.precision=fp8: the layers' products in FP8, by Transformer Engine. No torch here."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from recipes.checks import one_of, refuse
from recipes.config.schema import PretrainConfig
from recipes.families.model_config import ModelConfig

RECIPES = ("delayed", "tensorwise", "blockwise", "mxfp8")
DEFAULT_RECIPE = "delayed"
LEAST_CAPABILITY = (8, 9)
"""Ada's. Older GPUs have no products in FP8."""


def validate_fp8(config: PretrainConfig) -> None:
    """Refuses FP8 where it is set twice, its recipe where it would be ignored, both without an engine."""
    trainer, megatron = config.trainer, config.model.megatron
    one_of("trainer.fp8_recipe", trainer.fp8_recipe, RECIPES)
    if trainer.precision != "fp8":
        if trainer.fp8_recipe != DEFAULT_RECIPE:
            refuse("trainer.fp8_recipe", trainer.fp8_recipe, "would be ignored: set trainer.precision=fp8")
        return
    for field in ("fp8", "fp8_recipe"):
        if field in megatron:
            refuse(f"model.megatron.{field}", megatron[field], "trainer.precision=fp8 sets it; remove it")
    # A run may be planned where it cannot be trained.
    if not config.dry_run and importlib.util.find_spec("transformer_engine") is None:
        refuse("trainer.precision", "fp8", "needs Transformer Engine, which is not installed; set bf16")


def refuse_fp8_on(name: str, capability: tuple[int, int] | None, config: PretrainConfig) -> None:
    """Refuses FP8 on a device that has no such products.

    Args:
        name: the device's.
        capability: CUDA's; None: it is no GPU.
    """
    if config.trainer.precision == "fp8" and (capability is None or capability < LEAST_CAPABILITY):
        has = "no CUDA" if capability is None else f"compute capability {capability[0]}.{capability[1]}"
        refuse(
            "trainer.precision", "fp8", f"needs a GPU of capability 8.9 or more; {name} has {has}; set bf16"
        )


def model_of(config: PretrainConfig) -> ModelConfig:
    """The run's model with megatron-core's settings for its precision and for determinism."""
    fields: dict[str, Any] = {}
    if config.trainer.precision == "fp8":
        fields = {"fp8": "hybrid", "fp8_recipe": config.trainer.fp8_recipe}
    if config.trainer.deterministic:
        fields["deterministic_mode"] = True
    return dataclasses.replace(config.model, megatron={**config.model.megatron, **fields})
