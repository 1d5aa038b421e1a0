"""Filling a GPTModel from a stored model of any kind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.models.gpt import GPTModel

from recipes.checkpoint.formats.names import leading_axes, name_at, names_of
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.config.world import launched_world
from recipes.console import Progress
from recipes.errors import UserError
from recipes.model.init import sharded_tensors
from recipes.parallel.setup import cores_of_process

MOST_READERS = 8
"""Threads that read tensors: one copies a few GB/s out of the page cache, less than disks and GPUs take. They
are no threads of computation: OMP_NUM_THREADS=1, as jobs often have it, does not mean them.
"""


@torch.no_grad()
def load_weights(source: StoredModel, gpt: GPTModel) -> None:
    """Fills ``gpt`` with this rank's part of the stored weights under the present layout.

    Raises:
        UserError: a tensor is missing or has another shape than the configuration says.
    """
    shards = list(sharded_tensors(gpt))
    _compare(source, shards)
    total = sum(shard.data.nbytes for shard in shards if shard.data is not None)
    first = not dist.is_initialized() or dist.get_rank() == 0
    with (
        Progress(total, label=f"loading {source.path.name}", enabled=first) as progress,
        ThreadPoolExecutor(
            min(MOST_READERS, cores_of_process(launched_world())),
            initializer=torch.cuda.set_device,  # Which holds for one thread, too.
            initargs=(torch.cuda.current_device(),),
        ) as readers,
    ):
        for size in readers.map(partial(_fill, source, torch.is_inference_mode_enabled()), shards):
            progress.add(size)


def _fill(source: StoredModel, inference: bool, shard: ShardedTensor) -> int:
    """Reads this rank's part of one tensor, or of one in each of several layers and experts; its bytes."""
    # Both hold for one thread only; leaving inference mode would turn gradients on.
    with torch.inference_mode(inference), torch.no_grad():
        return _read(source, shard)


def _read(source: StoredModel, shard: ShardedTensor) -> int:
    data = shard.data
    assert data is not None
    # Leading axes of a sharded key number layers and experts; a stored tensor is of one layer and expert.
    leading = leading_axes(shard.key)
    within = shard.global_offset[leading:]
    own = leading - shard.prepend_axis_num  # Leading axes that this rank's tensor has too.
    for place in product(*map(range, shard.local_shape[:own])):
        above = shard.global_offset[: leading - own]
        counted = tuple(a + b for a, b in zip(shard.global_offset[leading - own :], place, strict=False))
        tensor = source.tensors[name_at(shard.key, above + counted)]
        tensor.box(within, shard.local_shape[own:]).read_into(data[place])
    return data.nbytes


def _compare(source: StoredModel, shards: list[ShardedTensor]) -> None:
    """Checks that the model's tensors and the stored ones are the same set, in the same shapes.

    A stored tensor that has no place in the model means that the model would compute something else.
    """
    wanted: set[str] = set()
    for key, shape in {shard.key: tuple(shard.global_shape) for shard in shards}.items():
        asked = shape[leading_axes(key) :]
        for _, name in names_of(key, shape):
            wanted.add(name)
            if name not in source.tensors:
                raise UserError(f"{source.path}: {name} is missing, which its configuration asks for")
            if source.tensors[name].shape != asked:
                stored = source.tensors[name].shape
                raise UserError(f"{source.path}: {name} is {stored}, its configuration asks for {asked}")
    unused = sorted(source.tensors.keys() - wanted)
    if unused and parallel_state.get_pipeline_model_parallel_world_size() == 1:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise UserError(f"{source.path}: stores {unused[0]}{more}, which its configuration has no place for")
