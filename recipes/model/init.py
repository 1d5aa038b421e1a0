"""Initial weights that depend on the seed, the parameter's global name and the element's global place only.

So every layout starts from the same model. megatron-core's own initialisation draws from one random stream
per rank and cannot promise that. Which part of which global tensor a rank holds is read off megatron-core's
own sharded state dict, the same description that its checkpoints rely on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.config.schema import ModelConfig

ROWS_PER_BLOCK = 1024
OUTPUT_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")
NORM_GAINS = ("layernorm.weight", "layer_norm_weight")


@torch.no_grad()
def initialize_weights(gpt: GPTModel, model: ModelConfig, seed: int) -> None:
    """Fills this rank's parameters in place.

    Matrices and tables: normal(0, init_method_std), output projections divided by sqrt(2 * num_layers) as in
    GPT-2 (Radford et al. 2019, section 2.3) when ``use_scaled_init_method``; norm gains 1; biases 0.
    """
    for shard in sharded_tensors(gpt):
        std = _std(shard.key, model)
        assert shard.data is not None
        if std is None:
            shard.data.fill_(1.0 if shard.key.endswith(NORM_GAINS) else 0.0)
        else:
            _fill_normal(shard, std, seed)


def sharded_tensors(gpt: GPTModel) -> Iterator[ShardedTensor]:
    """Every trainable tensor of this rank; ``data`` is a view of the parameter, not a copy."""
    for value in nested_values(gpt.sharded_state_dict()):
        if isinstance(value, ShardedTensorFactory):
            yield from nested_values(value.build())
        elif isinstance(value, ShardedTensor):
            yield value


def _std(key: str, model: ModelConfig) -> float | None:
    """Standard deviation for a parameter; None for norm gains and biases."""
    if key.endswith(NORM_GAINS) or key.endswith("bias"):
        return None
    if key.endswith(OUTPUT_PROJECTIONS) and model.use_scaled_init_method:
        return model.init_method_std / math.sqrt(2.0 * model.num_layers)
    return model.init_method_std


def _fill_normal(shard: ShardedTensor, std: float, seed: int) -> None:
    """Draws the global tensor in blocks of rows and copies the part that this rank holds."""
    leading = shard.prepend_axis_num
    # Leading axes are places in the stack of layers: they choose another random stream.
    place = tuple(shard.global_offset[:leading])
    row_start, row_count = shard.global_offset[leading], shard.local_shape[0]
    columns = tuple(
        slice(offset, offset + size)
        for offset, size in zip(shard.global_offset[leading + 1 :], shard.local_shape[1:], strict=True)
    )
    total_rows, row_shape = shard.global_shape[leading], shard.global_shape[leading + 1 :]
    first_block, last_block = row_start // ROWS_PER_BLOCK, (row_start + row_count - 1) // ROWS_PER_BLOCK
    for block in range(first_block, last_block + 1):
        block_start = block * ROWS_PER_BLOCK
        # Always a whole block, so that a row's numbers do not depend on where the table ends (padding).
        random = _generator(seed, shard.key, place, block)
        values = (
            torch.from_numpy(random.standard_normal((ROWS_PER_BLOCK, *row_shape), dtype=np.float32)) * std
        )
        start = max(row_start, block_start)
        stop = min(row_start + row_count, block_start + ROWS_PER_BLOCK, total_rows)
        part: Tensor = values[start - block_start : stop - block_start]
        shard.data[start - row_start : stop - row_start].copy_(part[(slice(None), *columns)])


def _generator(seed: int, key: str, place: tuple[int, ...], block: int) -> np.random.Generator:
    # numpy's Philox takes 128 bits of key; torch's CPU generator only 32 of its seed, too few for the blocks
    # of a large model to be sure of different numbers.
    digest = hashlib.sha256(f"{seed}:{key}:{place}:{block}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
