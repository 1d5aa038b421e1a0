"""Settings of precision and determinism that contradict each other are refused in one line."""

from __future__ import annotations

import re

import pytest

from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError

BASE = ["name=x", "data.seq_length=32", "trainer.max_steps=1", "dry_run=true"]
REFUSED = [
    (["trainer.precision=fp61"], "trainer.precision=fp61: choose one of auto, bf16, fp32, fp16, fp8"),
    (
        ["trainer.fp16.hysteresis=3"],
        "trainer.fp16.hysteresis=3: would be ignored: set trainer.precision=fp16",
    ),
    (
        ["trainer.precision=fp16", "trainer.fp16.min_loss_scale=131072"],
        "trainer.fp16.min_loss_scale=131072.0: must be at most trainer.fp16.initial_loss_scale=65536",
    ),
    (
        ["trainer.precision=fp16", "trainer.fp16.loss_scale_window=0"],
        "trainer.fp16.loss_scale_window=0: must be positive",
    ),
    (
        ["trainer.precision=fp16", "optim=muon", "optim.head_lr=null"],
        "trainer.precision=fp16: not with optim.name=muon; set bf16",
    ),
    (
        ["trainer.precision=fp16", "model=tiny_param_moe"],
        "trainer.precision=fp16: not with model.num_moe_experts=",
    ),
    (
        ["trainer.precision=fp16", "trainer.cuda_graph=true"],
        "trainer.cuda_graph=True: not possible with trainer.precision=fp16",
    ),
    (
        ["trainer.precision=fp32", "trainer.grad_reduce_in_fp32=false"],
        "trainer.grad_reduce_in_fp32=False: would be ignored: with fp32 weights",
    ),
    (
        ["trainer.precision=fp16", "trainer.grad_reduce_in_fp32=false"],
        "trainer.grad_reduce_in_fp32=False: fp16 cannot hold sums of scaled gradients",
    ),
    (
        ["+model.megatron.deterministic_mode=true"],
        "model.megatron.deterministic_mode=True: trainer.deterministic sets it; remove it",
    ),
    (
        ["trainer.deterministic=true", "+model.megatron.attention_backend=fused"],
        "model.megatron.attention_backend=fused: not with trainer.deterministic=true; remove it",
    ),
    (
        ["trainer.guards.max_rollbacks=5"],
        "trainer.guards.max_rollbacks=5: would be ignored: set trainer.guards.loss_spike_zscore",
    ),
    (
        ["trainer.guards.warn_of_stragglers_from=1"],
        "trainer.guards.warn_of_stragglers_from=1.0: must be above 1, the median rank; 1.3 say",
    ),
    (["trainer.guards.loss_spike_window=1"], "trainer.guards.loss_spike_window=1: must be at least 2"),
    (["trainer.guards.loss_spike_zscore=0"], "trainer.guards.loss_spike_zscore=0.0: must be positive"),
    (["trainer.ema.decay=1"], "trainer.ema.decay=1.0: must lie between 0 and 1, 0.999 for example"),
    (["trainer.ema.every_n_steps=2"], "trainer.ema.every_n_steps=2: would be ignored: set trainer.ema.decay"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        validate_pretrain(compose("pretrain", [*BASE, *changes]))


def test_the_scale_that_others_begin_with() -> None:
    """NeMo's and Megatron's 2^32."""
    scale = "trainer.fp16.initial_loss_scale=4294967296"
    config = compose("pretrain", ["experiment=quickstart", "data_dir=d", "trainer.precision=fp16", scale])
    validate_pretrain(config)
    assert config.trainer.fp16.initial_loss_scale == 2.0**32
