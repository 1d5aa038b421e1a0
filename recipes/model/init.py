"""Initial weights that depend only on the seed, the parameter's global name and the element's global index.

Every layout therefore starts from the same model. megatron-core's own initialisation draws from one random
stream per rank and cannot promise that. Which part of which global tensor a rank holds is read from
megatron-core's own sharded state dict, the same description that its checkpoints rely on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.families.model_config import ModelConfig
from recipes.model.families import layers_of
from recipes.model.initial_values import Constant, Normal, Uniform

ROWS_PER_BLOCK = 1024


@torch.no_grad()
def initialize_weights(gpt: GPTModel, model: ModelConfig, seed: int) -> None:
    """Fills this rank's parameters in place with the initial values of the model's family.

    Random ones are drawn by as many threads as torch uses: billions of numbers take one of them minutes.
    """
    family = layers_of(model)
    blocks = []
    for shard in sharded_tensors(gpt):
        values = family.initial_values(shard.key, shard.global_shape[-1], model)
        assert shard.data is not None
        if isinstance(values, Constant):
            shard.data.fill_(values.value)
        else:
            blocks += [(shard, values, seed, block) for block in _blocks(shard)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for _ in threads.map(lambda arguments: _fill_block(*arguments), blocks):
            pass  # Raises what a thread raised.


def sharded_tensors(gpt: GPTModel) -> Iterator[ShardedTensor]:
    """Every trainable tensor of this rank; ``data`` is a view of the parameter, not a copy."""
    for value in nested_values(gpt.sharded_state_dict()):
        if isinstance(value, ShardedTensorFactory):
            yield from nested_values(value.build())
        elif isinstance(value, ShardedTensor):
            yield value


def _blocks(shard: ShardedTensor) -> range:
    """The blocks of ROWS_PER_BLOCK rows of the global tensor of which this rank holds a part."""
    start, count = shard.global_offset[shard.prepend_axis_num], shard.local_shape[0]
    return range(start // ROWS_PER_BLOCK, (start + count - 1) // ROWS_PER_BLOCK + 1)


@torch.no_grad()  # Which holds for one thread only.
def _fill_block(shard: ShardedTensor, values: Normal | Uniform, seed: int, block: int) -> None:
    """Draws one block of rows of the global tensor and copies the part that this rank holds."""
    leading = shard.prepend_axis_num
    # Leading axes index the stack of layers: each index has its own random stream.
    place = tuple(shard.global_offset[:leading])
    row_start, row_count = shard.global_offset[leading], shard.local_shape[0]
    columns = tuple(
        slice(offset, offset + size)
        for offset, size in zip(shard.global_offset[leading + 1 :], shard.local_shape[1:], strict=True)
    )
    total_rows, row_shape = shard.global_shape[leading], shard.global_shape[leading + 1 :]
    block_start = block * ROWS_PER_BLOCK
    # Always a whole block, so that a row's numbers do not depend on where the table ends (padding).
    random = _generator(seed, shard.key, place, block)
    drawn = torch.from_numpy(_draw(random, values, (ROWS_PER_BLOCK, *row_shape)))
    start = max(row_start, block_start)
    stop = min(row_start + row_count, block_start + ROWS_PER_BLOCK, total_rows)
    part: Tensor = drawn[start - block_start : stop - block_start]
    shard.data[start - row_start : stop - row_start].copy_(part[(slice(None), *columns)])


def _draw(random: np.random.Generator, values: Normal | Uniform, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(values, Normal):
        return random.standard_normal(shape, dtype=np.float32) * np.float32(values.std)
    return (2 * random.random(shape, dtype=np.float32) - 1) * np.float32(values.bound)


def _generator(seed: int, key: str, place: tuple[int, ...], block: int) -> np.random.Generator:
    # numpy's Philox takes a 128-bit key; torch's CPU generator uses only 32 bits of its seed, too few to be
    # sure that the blocks of a large model get different numbers.
    digest = hashlib.sha256(f"{seed}:{key}:{place}:{block}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
