"""Refuses settings of precision and determinism that contradict each other. No torch here."""

from __future__ import annotations

from recipes.checks import positive, refuse, refuse_ignored
from recipes.config.fp8 import validate_fp8
from recipes.config.schema import PretrainConfig
from recipes.config.trainer_schema import Fp16Config


def validate_precision(config: PretrainConfig) -> None:
    """Checks trainer.precision and what goes with it."""
    validate_fp8(config)
    _validate_fp16(config)
    trainer = config.trainer
    if not trainer.grad_reduce_in_fp32 and trainer.precision == "fp32":
        refuse("trainer.grad_reduce_in_fp32", False, "would be ignored: with fp32 weights gradients are fp32")
    if not trainer.grad_reduce_in_fp32 and trainer.precision == "fp16":
        refuse(
            "trainer.grad_reduce_in_fp32", False, "fp16 cannot hold sums of scaled gradients; set it to true"
        )
    _validate_deterministic(config)


def _validate_fp16(config: PretrainConfig) -> None:
    trainer, scale = config.trainer, config.trainer.fp16
    for key in vars(Fp16Config()):
        positive(f"trainer.fp16.{key}", getattr(scale, key))
    if scale.min_loss_scale > scale.initial_loss_scale:
        refuse(
            "trainer.fp16.min_loss_scale",
            scale.min_loss_scale,
            f"must be at most trainer.fp16.initial_loss_scale={scale.initial_loss_scale:g}",
        )
    if trainer.precision != "fp16":
        refuse_ignored("trainer.fp16", scale, "set trainer.precision=fp16")
        return
    for reason, holds in (
        ("optim.name=muon", config.optim.name == "muon"),
        # megatron-core moves the scale of experts and that of the rest apart.
        (f"model.num_moe_experts={config.model.num_moe_experts}", config.model.num_moe_experts is not None),
    ):
        if holds:
            refuse("trainer.precision", "fp16", f"not with {reason}; set bf16")


def _validate_deterministic(config: PretrainConfig) -> None:
    megatron = config.model.megatron
    if "deterministic_mode" in megatron:
        refuse(
            "model.megatron.deterministic_mode",
            megatron["deterministic_mode"],
            "trainer.deterministic sets it; remove it",
        )
    if not config.trainer.deterministic:
        return
    backend = megatron.get("attention_backend")
    if backend == "fused":
        refuse("model.megatron.attention_backend", backend, "not with trainer.deterministic=true; remove it")
