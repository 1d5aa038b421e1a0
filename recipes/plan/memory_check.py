"""Refuses a run that memory is too small for, before anything is built."""

from __future__ import annotations

import psutil

from recipes.config.schema import PretrainConfig
from recipes.config.world import World
from recipes.console import warn
from recipes.errors import UserError
from recipes.plan.machine import Device, free_bytes, this_machines_device
from recipes.plan.memory import run_memory

GIB = 2**30
TOO_MUCH, TIGHT = 1.1, 0.9
"""Of the free memory: the estimate was within a tenth wherever it was measured."""


def check_memory(config: PretrainConfig, world: World) -> None:
    """Compares what the fullest process needs with what is free on this machine.

    Raises:
        UserError: it is far too much; the line names the parts and what to set.
    """
    device = this_machines_device()
    sharing = 1 if device.is_cuda else world.local_size
    free = _free(device, world)
    parallel = config.parallel
    model_parallel = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    replicas = world.size // (model_parallel * parallel.context_parallel_size)
    parts = run_memory(config, replicas, on_cuda=device.is_cuda)
    needed = sum(parts.values()) * sharing
    if needed <= TIGHT * free:
        return
    message = f"{_needed(parts, device, sharing)}, {free / GIB:,.1f} GiB are free"
    message += f"; {_remedy(config, parts, free // sharing)}"
    if needed > TOO_MUCH * free and config.plan.memory_check == "refuse":
        raise UserError(f"{message}; or set plan.memory_check=warn to try it")
    warn(message)


def _free(device: Device, world: World) -> int:
    """Bytes for the run: what it holds already is counted in what it needs."""
    free = free_bytes(device, world.local_rank)
    return free if device.is_cuda else free + psutil.Process().memory_info().rss * world.local_size


def _needed(parts: dict[str, int], device: Device, sharing: int) -> str:
    """What is needed, by part."""
    listed = ", ".join(f"{part} {size / GIB:,.1f}" for part, size in parts.items() if size >= 0.05 * GIB)
    times = f" x {sharing} processes" if sharing > 1 else ""
    total = sum(parts.values()) * sharing / GIB
    return f"memory: about {total:,.1f} GiB are needed on {device.name} ({listed}{times})"


def _remedy(config: PretrainConfig, parts: dict[str, int], free: int) -> str:
    """Which settings would lower it."""
    working = parts["activations"] + parts["logits and loss"]
    if sum(parts.values()) - working > free:
        return (
            "choose a smaller model, or share weights and optimizer state among more devices "
            "(torchrun, parallel.tensor_model_parallel_size)"
        )
    ways = []
    if config.trainer.micro_batch_size > 1:
        ways.append(f"lower trainer.micro_batch_size={config.trainer.micro_batch_size}")
    if config.parallel.recompute_granularity is None and parts["activations"] > parts["logits and loss"]:
        ways.append(
            "set parallel.recompute_granularity=full parallel.recompute_method=uniform "
            "parallel.recompute_num_layers=1"
        )
    return " or ".join(ways) or f"lower data.seq_length={config.data.seq_length}"
