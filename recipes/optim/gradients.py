"""What happens to the gradients between backward pass and update, without the host waiting for the device.

megatron-core reads two numbers in every step, the norm and the count of tokens, and without Transformer
Engine or Apex the norm of every single gradient too: the device runs dry each time. Here they stay there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.distributed import finalize_model_grads as megatron_finalize
from megatron.core.optimizer import clip_grads, layer_wise_optimizer, optimizer
from torch import Tensor


def install() -> None:
    """Puts the two functions below in the place of megatron-core's, wherever these have been imported."""
    for module in (clip_grads, layer_wise_optimizer, optimizer):
        for function in (get_grad_norm_fp32, clip_grad_by_total_norm_fp32):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def get_grad_norm_fp32(
    grads_for_norm: list[Tensor],
    norm_type: float = 2,
    grad_stats_parallel_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The 2-norm of all gradients of all ranks of the group (None: of all) as one vector; ``[]``, fp32.

    ``norm_type`` is there because megatron-core's function has it; only 2 is used.
    """
    if grads_for_norm:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads_for_norm)))
    else:
        norm = torch.zeros((), device=torch.cuda.current_device())
    if dist.get_world_size(grad_stats_parallel_group) == 1:
        return norm
    square = norm.square()
    dist.all_reduce(square, group=grad_stats_parallel_group)
    return square.sqrt()


def clip_grad_by_total_norm_fp32(
    parameters: Iterable[Tensor], max_norm: float, total_norm: Tensor, use_decoupled_grad: bool = False
) -> None:
    """Scales the gradients so that ``total_norm`` becomes ``max_norm``, unless it is smaller."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if grads:
        # Multiplied by 1 where there is nothing to clip: whether there is only the device knows.
        torch._foreach_mul_(grads, (max_norm / (total_norm + 1e-6)).clamp(max=1.0))


def finalize_model_grads(
    model: list[DistributedDataParallel],
    num_tokens: Tensor | None = None,
    pg_collection: Any = None,
    force_all_reduce: bool | None = False,
) -> None:
    """megatron-core's, which reduces gradients among ranks; then their sum becomes the mean over tokens.

    Args:
        num_tokens: of this rank's micro-batches, on the last pipeline stage, ``[]``; reduced in place.
    """
    megatron_finalize(model, None, pg_collection, force_all_reduce)
    assert num_tokens is not None, "calculate_per_token_loss is always set"
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(num_tokens, src=last, group=parallel_state.get_pipeline_model_parallel_group())
    replicas = parallel_state.get_data_parallel_group(with_context_parallel=True)
    if replicas.size() > 1:
        dist.all_reduce(num_tokens, group=replicas)
    scaling = 1.0 / num_tokens.clamp(min=1)  # Without any token all gradients are zero.
    buffers = [buffer for chunk in model for buffer in chunk.buffers + chunk.expert_parallel_buffers]
    # Twice as fast as megatron-core's multiplication by a tensor without dimensions, which is not vectorized.
    torch._foreach_mul_([buffer.grad_data for buffer in buffers], scaling)
