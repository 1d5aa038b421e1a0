"""Planned times of kernels against those measured on one H200 (docs/performance.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.cluster_schema import HardwareConfig
from recipes.config.hydra_app import compose
from recipes.config.schema import ParallelConfig
from recipes.plan.accounting import flops_per_token
from recipes.plan.kernels import Kernels, stage_kernels

PARAM1 = compose("pretrain", ["experiment=param1_2p9b"])
H200 = HardwareConfig(gpu="h200", nvlink_gb_per_s=450, network_gb_per_s=50)


def kernels(
    hardware: HardwareConfig = H200, replicas: int = 1, size: int = 4, **layout: Any
) -> list[Kernels]:
    return stage_kernels(
        PARAM1.model, PARAM1.optim, ParallelConfig(**layout), hardware,
        micro_batch_size=size, seq_length=2048, data_parallel_size=replicas,
    )  # fmt: skip


@pytest.mark.parametrize(("micro_batches", "tokens_per_second"), [(4, 35_893), (2, 34_098)])
def test_param1_on_one_h200(micro_batches: int, tokens_per_second: int) -> None:
    (stage,) = kernels()
    seconds = micro_batches * stage.micro_batch + stage.optimizer
    assert micro_batches * 4 * 2048 / seconds == pytest.approx(tokens_per_second, rel=0.03)
    assert stage.optimizer == pytest.approx(0.041, rel=0.05)


def test_micro_batches_of_8_gain_less_than_they_double() -> None:
    """Weights are read, and their gradients added, once for twice as many tokens."""
    assert 1.9 < kernels(size=8)[0].micro_batch / kernels(size=4)[0].micro_batch < 2


def test_a_wider_and_shallower_model_has_no_more_of_what_is_bound_by_memory() -> None:
    """Param-1 5B does 1.95 times the 2.9B's work for a token, with as many numbers between its products: 16
    layers of 4,096 are 32 of 2,048. So its utilization is higher."""
    wide = compose("pretrain", ["experiment=param1_5b"])
    (stage,) = stage_kernels(
        wide.model, wide.optim, ParallelConfig(), H200,
        micro_batch_size=2, seq_length=4096, data_parallel_size=1,
    )  # fmt: skip
    (narrow,) = kernels()
    work = [flops_per_token(each.model, each.data.seq_length) for each in (wide, PARAM1)]
    assert work[0] / work[1] == pytest.approx(1.95, abs=0.01)
    assert 1.6 < stage.micro_batch / narrow.micro_batch < 1.8
    # No product is faster than the best that the card does, 790 TFLOP/s, nor is all of it together.
    assert 8192 * work[0] / stage.micro_batch < 0.9 * 790e12


def test_layouts_divide_the_work() -> None:
    (whole,) = kernels()
    (half,) = kernels(tensor_model_parallel_size=2, sequence_parallel=True)
    assert half.micro_batch == pytest.approx(whole.micro_batch / 2, rel=0.05)
    (replicated,) = kernels(tensor_model_parallel_size=2)
    assert replicated.micro_batch > half.micro_batch  # Norms and the stream are whole on both.
    stages = kernels(pipeline_model_parallel_size=4)
    assert sum(stage.micro_batch for stage in stages) == pytest.approx(whole.micro_batch, rel=1e-6)
    assert stages[3].micro_batch > stages[0].micro_batch  # It has the head.
    assert kernels(replicas=64)[0].optimizer < whole.optimizer / 5


def test_recomputation_is_another_forward_pass_of_the_layers() -> None:
    (plain,) = kernels()
    full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    (again,) = kernels(**full)
    assert (again.forward, again.backward) == (plain.forward, plain.backward)
    assert 0.7 * plain.forward < again.recomputed < plain.forward  # All but the head.
    (some,) = kernels(**full | {"recompute_method": "block", "recompute_num_layers": 8})
    assert some.recomputed == pytest.approx(again.recomputed / 4)
    (mlp,) = kernels(recompute_granularity="selective", recompute_modules=["mlp"])
    (attention,) = kernels(recompute_granularity="selective")
    assert 0 < attention.recomputed < mlp.recomputed < again.recomputed


def test_faster_kernels_and_other_gpus() -> None:
    (plain,) = kernels()
    (fast,) = kernels(replace(H200, kernel_speed=1.25))
    assert fast.micro_batch == pytest.approx(plain.micro_batch / 1.25)
    (slower_memory,) = kernels(replace(H200, gpu="h100"))
    assert plain.micro_batch < slower_memory.micro_batch < 1.2 * plain.micro_batch
    # 989 against 312 TFLOP/s.
    assert kernels(replace(H200, gpu="a100_80gb"))[0].micro_batch > 2.5 * plain.micro_batch


def test_tensor_parallel_ranks_split_experts_or_their_tokens() -> None:
    """Half of the routed work either way; a rank with whole experts reads twice as many of their weights."""
    param2 = compose("pretrain", ["experiment=param2_17b_a2p4b"])

    def seconds(**layout: Any) -> float:
        (stage,) = stage_kernels(
            param2.model, param2.optim, ParallelConfig(**layout), H200,
            micro_batch_size=1, seq_length=32_768, data_parallel_size=8,
        )  # fmt: skip
        return stage.micro_batch

    pair = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    inside, by_tokens = seconds(**pair), seconds(**pair, expert_tensor_parallel_size=1)
    assert inside < by_tokens < 1.1 * inside
    assert inside == pytest.approx(seconds() / 2, rel=0.1)
    assert seconds(**pair, expert_tensor_parallel_size=1, expert_model_parallel_size=8) < by_tokens
