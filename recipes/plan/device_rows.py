"""The device's part of the ``dry_run`` text: whether the run fits, how long it takes, what it saves."""

from __future__ import annotations

from recipes.checks import refuse
from recipes.config.devices import Device
from recipes.config.lengths import total_steps
from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.config.world import launched_world
from recipes.counts import counted, time_in_words
from recipes.plan.accounting import flops_by_length, flops_until
from recipes.plan.machine import planned_device
from recipes.plan.memory import checkpoint_bytes, run_memory, uses_bf16
from recipes.plan.memory_check import GIB, TIGHT, TOO_MUCH

MFU = 0.4
"""Assumed of a GPU: an H200 measured 0.42 with Param-1 and no Transformer Engine."""
CPU_FLOPS_PER_CORE = 20e9
"""Assumed of a core in training: two 2-core machines measured 16 and 41 GFLOP/s with the quick start."""

Rows = list[tuple[str, str]]


def device_rows(config: PretrainConfig, data_parallel_size: int, world_size: int) -> Rows:
    """Names and values."""
    device = planned_device(config)
    speed, assumption = assumed_speed(config, device)
    processes = world_size if device.is_cuda else 1  # Those on a host share its cores.
    timeline, steps = timeline_of(config), total_steps(config)
    flops = flops_until(steps, timeline, flops_by_length(config.model, timeline))
    run_s = flops / (speed * processes)
    step_s = run_s / max(1, steps)
    tokens_per_second = speed * timeline.tokens(steps) / max(1, flops)
    per_device = f"{tokens_per_second:,.0f} tokens/s per device"
    return [
        ("device", f"{device.name}, {device.memory / GIB:,.1f} GiB (plan.device)"),
        *_memory_rows(config, device, data_parallel_size, world_size),
        ("time", f"about {time_in_words(run_s)}, {time_in_words(step_s)} per step, {per_device}"),
        ("  assumed", assumption),
        *_checkpoint_rows(config, device, step_s),
    ]


def _memory_rows(config: PretrainConfig, device: Device, data_parallel_size: int, world_size: int) -> Rows:
    parts = run_memory(config, data_parallel_size, on_cuda=device.is_cuda)
    launched = launched_world()
    sharing = 1
    if not device.is_cuda:
        sharing = launched.local_size if launched.size > 1 else world_size
    needed = sum(parts.values()) * sharing
    fits = "fits" if needed <= TIGHT * device.memory else "is tight"
    if needed > TOO_MUCH * device.memory:
        fits = "DOES NOT FIT"
    half = "fp16" if config.trainer.precision == "fp16" else "bf16"
    number = half if uses_bf16(config, on_cuda=device.is_cuda) else "fp32"
    shared = f" for {sharing} processes" if sharing > 1 else ""
    verdict = (
        f"{needed / GIB:,.2f} GiB expected{shared} ({number}), {100 * needed / device.memory:.0f} %: {fits}"
    )
    return [
        ("memory", verdict),
        *((f"  {part}", memory_in_words(size)) for part, size in parts.items() if size),
    ]


def assumed_speed(config: PretrainConfig, device: Device) -> tuple[float, str]:
    """FLOP/s that one device is assumed to do in training, and the assumption in words.

    Raises:
        UserError: plan.mfu is a share of an unknown peak.
    """
    mfu, peak = config.plan.mfu or MFU, device.peak_flops
    if config.trainer.peak_tflops is not None:
        peak = config.trainer.peak_tflops * 1e12
    if peak is not None:
        return mfu * peak, f"{100 * mfu:g} % of {peak / 1e12:g} TFLOP/s (plan.mfu)"
    if not device.is_cuda:
        if config.plan.mfu is not None:
            refuse("plan.mfu", config.plan.mfu, "a CPU's peak is not known: set trainer.peak_tflops too")
        speed = CPU_FLOPS_PER_CORE * device.cores
        return (
            speed,
            f"{speed / 1e9:g} GFLOP/s, {CPU_FLOPS_PER_CORE / 1e9:g} for each of {device.cores} cores",
        )
    return mfu * 100e12, f"{100 * mfu:g} % of 100 TFLOP/s, as the peak is unknown: set trainer.peak_tflops"


def _checkpoint_rows(config: PretrainConfig, device: Device, step_s: float) -> Rows:
    checkpoint = config.trainer.checkpoint
    bf16, ema = uses_bf16(config, on_cuda=device.is_cuda), config.trainer.ema.decay is not None
    size = checkpoint_bytes(config.model, config.optim, bf16=bf16, ema=ema)
    kept = checkpoint.keep_last + checkpoint.keep_best
    when = []
    if checkpoint.every_n_steps is not None:
        seconds = checkpoint.every_n_steps * step_s
        when.append(f"every {counted(checkpoint.every_n_steps, 'step')}, about {time_in_words(seconds)}")
    if checkpoint.every_minutes is not None:
        steps = max(1, round(60 * checkpoint.every_minutes / step_s))
        when.append(f"every {checkpoint.every_minutes:g} minutes, about {counted(steps, 'step')}")
    often = " and ".join(when) or "only at the end and when the run is stopped"
    return [("checkpoint", f"{size / 1e9:,.2f} GB, {kept} kept; {often}")]


def memory_in_words(size: int) -> str:
    """``5.33 GiB``, or ``42.6 MiB`` below a tenth of one."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
