"""What measured steps say about plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.devices import GPUS, Device
from recipes.config.hydra_app import compose
from recipes.errors import UserError
from recipes.plan.measured import calibrated, measurable, measured_of, measured_text
from recipes.plan.memory import run_memory
from recipes.plan.run_plan import plan_run
from recipes.plan.step_time import step_time

PARAM1 = compose("pretrain", ["experiment=param1_2p9b"])
CLUSTER: ClusterConfig = compose("cluster", ["cluster=shakti_512xh100"]).cluster
H200, CPU = GPUS["h200"], Device("CPU", 2**34, False, None, 2)


def test_a_gpu_that_runs_slower_than_planned() -> None:
    """Steps of an H200 at 0.8 of the speed: so fast are the cluster's kernels then."""
    config = measurable(PARAM1, H200, H200.memory)
    assert config.model == PARAM1.model and config.trainer.global_batch_size == 8
    hardware = replace(CLUSTER.hardware, gpu="h200", kernel_speed=0.8)
    seconds = step_time(config, ClusterConfig(1, 1, hardware), 1).seconds
    found = measured_of(config, H200, [10.0, seconds, seconds, 0.0])
    cluster = calibrated(found, CLUSTER)
    assert cluster is not None and cluster.hardware.kernel_speed == pytest.approx(0.8, rel=1e-4)
    assert cluster == replace(
        CLUSTER, hardware=replace(CLUSTER.hardware, kernel_speed=cluster.hardware.kernel_speed)
    )
    assert plan_run(PARAM1, cluster).step.kernels == pytest.approx(
        plan_run(PARAM1, CLUSTER).step.kernels / 0.8
    )
    text = measured_text(found, PARAM1, cluster)
    assert "cluster.hardware.kernel_speed=0.800" in text and "of 32 layers" not in text


def test_as_many_layers_as_fit() -> None:
    free = 40 * 2**30
    config = measurable(PARAM1, H200, free)
    layers = config.model.num_layers
    assert 0 < layers < 32
    needed = [
        sum(run_memory(replace(config, model=replace(config.model, num_layers=n)), 1, on_cuda=True).values())
        for n in (layers, layers + 1)
    ]
    assert needed[0] <= 0.9 * free < needed[1]
    assert f"{layers} of 32 layers" in measured_text(measured_of(config, H200, [1.0]), PARAM1, None)
    with pytest.raises(UserError, match="one layer needs"):
        measurable(PARAM1, H200, 2**30)


def test_a_cpu_calibrates_dry_run() -> None:
    config = measurable(
        compose("pretrain", ["experiment=quickstart", "model.vocab_size=2048"]), CPU, CPU.memory
    )
    found = measured_of(config, CPU, [0.5, 0.25, 0.25])
    assert found.seconds == 0.25 and found.tokens_per_second == 2 * 8 * 128 / 0.25
    assert calibrated(found, CLUSTER) is None
    assert f"trainer.peak_tflops={found.flops / 1e12:.3g} plan.mfu=1" in measured_text(found, config, None)


def test_steps_on_this_machine(gloo_pool: Any) -> None:
    from tests.support.measure_cases import measured_steps

    settings = ["experiment=quickstart", "model.vocab_size=2048", "trainer.micro_batch_size=1"]
    times, before, after = gloo_pool.run(1, measured_steps, settings)[0]
    assert len(times) == 2 and all(seconds > 0 for seconds in times)
    assert after < before - 0.1  # The same tokens again and again: it really trains.
