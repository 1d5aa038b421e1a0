"""nano_hindi with weights under which every feature matters, and a case for the pool."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.models.gpt import GPTModel

from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.families.model_config import ModelConfig
from recipes.model.init import sharded_tensors
from tests.support.engine import initialized, process_groups
from tests.support.parity import batch

CENTRES = {"resid_lambda": 1.0, "x0_lambda": 0.5}
DEVIATIONS = {
    "resid_lambda": 0.3,
    "x0_lambda": 0.3,
    "value_gate.weight": 0.3,
    "output_layer.weight": 0.3,
    "word_embeddings.weight": 0.5,
    "value_embedding.weight": 1.0,
}


def by_ending(name: str, values: dict[str, float], otherwise: float) -> float:
    return next((value for ending, value in values.items() if name.endswith(ending)), otherwise)


@torch.no_grad()
def shaken(gpt: GPTModel) -> GPTModel:
    """The same global weights whatever part a rank holds; the initial ones are mostly without effect."""
    for shard in sharded_tensors(gpt):
        generator = torch.Generator().manual_seed(zlib.crc32(shard.key.encode()))
        noise = torch.randn(shard.global_shape, generator=generator)
        deviation = by_ending(shard.key, DEVIATIONS, shard.global_shape[-1] ** -0.5)
        whole = by_ending(shard.key, CENTRES, 0.0) + deviation * noise
        shard.data.copy_(whole[place(shard)])
    return gpt


def place(shard: ShardedTensor) -> tuple[slice, ...]:
    """What this rank holds of the whole tensor."""
    extents = zip(shard.global_offset, shard.local_shape, strict=True)
    return tuple(slice(offset, offset + size) for offset, size in extents)


def losses_and_gradients(
    model: ModelConfig, parallel: ParallelConfig
) -> tuple[Any, dict[str, tuple[tuple[slice, ...], Any]]]:
    """This rank's losses ``[b, s]`` and for each parameter its place in the whole and its gradient."""
    with process_groups(parallel, launched_world()):
        gpt = shaken(initialized(model, parallel=parallel)).train()
        tokens, labels, positions = (t[:, :32].contiguous() for t in batch(model.vocab_size))
        losses = gpt(tokens, positions, None, labels=labels)
        losses.mean().backward()
        found = {}
        for shard in sharded_tensors(gpt):
            # As megatron-core does at the end of a step, see finalize_model_grads.
            assert isinstance(shard.data, torch.nn.Parameter) and shard.data.grad is not None
            gradient = shard.data.grad
            if getattr(shard.data, "sequence_parallel", False):
                dist.all_reduce(gradient, group=parallel_state.get_tensor_model_parallel_group())
            found[shard.key] = (place(shard), gradient.cpu().numpy().copy())
        return losses.detach().cpu().numpy().copy(), found


def initial_parts(
    model: ModelConfig, parallel: ParallelConfig, seed: int
) -> dict[str, tuple[tuple[slice, ...], Any]]:
    """For each parameter its place in the whole and this rank's initial values."""
    with process_groups(parallel, launched_world()):
        shards = sharded_tensors(initialized(model, seed, parallel))
        return {shard.key: (place(shard), shard.data.detach().cpu().numpy().copy()) for shard in shards}
