"""What only the last pipeline stage has, on every stage."""

from __future__ import annotations

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor


def from_last_stage(tensor: Tensor) -> Tensor:
    """The last stage's ``tensor``; the other stages give room for it. Every stage makes this call.

    megatron-core's own (``broadcast_from_last_pipeline_stage``) refuses tensors of a CPU.
    """
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        dist.broadcast(
            tensor,
            src=parallel_state.get_pipeline_model_parallel_last_rank(),
            group=parallel_state.get_pipeline_model_parallel_group(),
        )
    return tensor
