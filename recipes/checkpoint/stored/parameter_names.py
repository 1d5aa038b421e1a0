"""What a built model's parameters are called in its checkpoints."""

from __future__ import annotations

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.checkpoint.formats.names import leading_axes, name_at


def parameter_names(gpt: GPTModel) -> dict[Tensor, str]:
    """This rank's parameters -> canonical names (formats/names.py), the same under every layout."""
    names = {}
    for value in nested_values(gpt.sharded_state_dict()):
        if not isinstance(value, ShardedTensor | ShardedTensorFactory):
            continue
        part = next(iter(nested_values(value.build()))) if isinstance(value, ShardedTensorFactory) else value
        names[value.data] = name_at(part.key, part.global_offset[: leading_axes(part.key)])
    return names
