"""What a few measured steps say about plans: how fast kernels are on a GPU, or how fast a CPU is. No torch
here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.devices import GPUS, Device
from recipes.config.schema import ParallelConfig, PretrainConfig
from recipes.config.validate import validate_pretrain
from recipes.counts import time_in_words
from recipes.errors import UserError
from recipes.plan.accounting import flops_per_token
from recipes.plan.calibration import calibrate_kernels
from recipes.plan.memory import run_memory
from recipes.plan.memory_check import GIB, TIGHT
from recipes.plan.step_time import step_time

MICRO_BATCHES = 2
STEPS = 5


def measurable(config: PretrainConfig, device: Device, free: int) -> PretrainConfig:
    """The run on one process with two micro-batches, and with as many layers as memory holds.

    Raises:
        UserError: not even one layer fits.
    """
    micro = config.trainer.micro_batch_size
    one = replace(
        config,
        dry_run=False,
        parallel=ParallelConfig(),
        trainer=replace(config.trainer, global_batch_size=MICRO_BATCHES * micro),
    )
    for layers in range(config.model.num_layers, 0, -1):
        fewer = replace(one, model=replace(one.model, num_layers=layers))
        needed = sum(run_memory(fewer, 1, on_cuda=device.is_cuda).values())
        if needed <= TIGHT * free:
            validate_pretrain(fewer)
            return fewer
    raise UserError(f"--measure: one layer needs {needed / GIB:,.1f} GiB, {free / GIB:,.1f} GiB are free")


@dataclass(frozen=True)
class Measured:
    """Steps of one process on this machine."""

    config: PretrainConfig
    """What was run."""
    device: Device
    seconds: float
    """Median of a step."""

    @property
    def tokens_per_second(self) -> float:
        return self.config.trainer.global_batch_size * self.config.data.seq_length / self.seconds

    @property
    def flops(self) -> float:
        """Model FLOP/s, by PaLM's count."""
        return self.tokens_per_second * flops_per_token(self.config.model, self.config.data.seq_length)


def measured_of(config: PretrainConfig, device: Device, times: Sequence[float]) -> Measured:
    """The median of the steps' seconds."""
    return Measured(config, device, statistics.median(times))


def calibrated(measured: Measured, cluster: ClusterConfig) -> ClusterConfig | None:
    """The cluster with this GPU's kernel_speed; None: a CPU, or a GPU whose peak and bandwidth are
    unknown."""
    gpu = next((key for key, each in GPUS.items() if each.name == measured.device.name), None)
    if gpu is None:
        return None
    hardware = replace(cluster.hardware, gpu=gpu)
    fitted = calibrate_kernels(
        hardware,
        lambda changed: step_time(measured.config, ClusterConfig(1, 1, changed), 1).tokens_per_second,
        measured.tokens_per_second,
    )
    return replace(cluster, hardware=replace(cluster.hardware, kernel_speed=fitted.kernel_speed))


def measured_text(measured: Measured, whole: PretrainConfig, cluster: ClusterConfig | None) -> str:
    """What was measured, and how plans use it.

    Args:
        measured: the steps.
        whole: the run that is planned; fewer of its layers may have been measured.
        cluster: the calibrated cluster, if there is one.
    """
    trainer, layers = measured.config.trainer, measured.config.model.num_layers
    of = f"{layers} of {whole.model.num_layers} layers, " if layers < whole.model.num_layers else ""
    rows = [
        (
            "measured",
            f"{measured.device.name}: {of}{MICRO_BATCHES} x {trainer.micro_batch_size} x "
            f"{measured.config.data.seq_length:,} tokens in {time_in_words(measured.seconds)}, "
            f"{measured.tokens_per_second:,.0f} tokens/s, {measured.flops / 1e12:,.3g} TFLOP/s",
        )
    ]
    if cluster is not None:
        rows.append(("to use it", f"cluster.hardware.kernel_speed={cluster.hardware.kernel_speed:.3f}"))
    else:
        rows.append(("to use it", f"trainer.peak_tflops={measured.flops / 1e12:.3g} plan.mfu=1 dry_run=true"))
    return "\n".join(f"{name:<10} {value}" for name, value in rows)
