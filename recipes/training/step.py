"""Forward and backward over one global batch through megatron-core's pipeline schedules, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_batch_on_this_cp_rank
from torch import Tensor

from recipes.parallel.last_stage import from_last_stage
from recipes.training.engine import Engine


def forward_backward(
    model: torch.nn.Module, batch: dict[str, Tensor], *, micro_batch_size: int, forward_only: bool
) -> list[dict[str, Tensor]]:
    """Runs all micro-batches of ``batch`` (tensors of ``[n, s]``) through this rank's model chunk.

    Returns:
        On the last pipeline stage one ``{"loss": [2]}`` per micro-batch: the sum of its tokens' losses and
        the number of tokens that count. On other stages an empty list.
    """
    samples, seq_length = batch["tokens"].shape
    micro_batches = [
        {field: values[start : start + micro_batch_size] for field, values in batch.items()}
        for start in range(0, samples, micro_batch_size)
    ]
    return get_forward_backward_func()(
        forward_step_func=_forward_step,
        data_iterator=iter(micro_batches),
        model=[model],
        num_microbatches=len(micro_batches),
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
    )


class Step:
    """One optimizer step in two halves, launched kernel by kernel."""

    def __init__(self, engine: Engine, micro_batch_size: int) -> None:
        self.engine, self.micro_batch_size = engine, micro_batch_size

    def resize(self, micro_batch_size: int, seq_length: int) -> None:
        """From the next step on micro-batches have this size."""
        self.micro_batch_size = micro_batch_size

    def gradients(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Gradients of this rank's share ``[n, s]`` of a global batch; what forward_backward returns."""
        self.engine.zero_gradients()
        return forward_backward(
            self.engine.ddp, batch, micro_batch_size=self.micro_batch_size, forward_only=False
        )

    def update(self) -> Tensor:
        """Updates the weights; the global gradient norm before clipping, ``[]``, on the device."""
        self.engine.prepare_update()
        return self.engine.update()


def _forward_step(
    micro_batches: Iterator[dict[str, Tensor]], model: torch.nn.Module
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    batch = dict(next(micro_batches))
    tokens = batch["tokens"]
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    # Attention is causal by construction. What stands for its mask is where each token's document starts.
    starts = None
    if "position_ids" in batch:
        starts = (places - batch["position_ids"]).int()
    else:
        batch["position_ids"] = places
    # Under context parallelism a rank keeps one chunk from the front and the mirrored one from the back.
    batch = get_batch_on_this_cp_rank(batch)
    losses = model(batch["tokens"], batch["position_ids"], starts, labels=batch["labels"])
    return losses, partial(_sum_of_losses, batch["loss_mask"])


def _sum_of_losses(loss_mask: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The weighted sum, to be differentiated; how many tokens count; and the plain sum over those."""
    losses = losses.float()
    counts = (loss_mask > 0).float()
    num_tokens = counts.sum()
    report = torch.stack(((losses.detach() * counts).sum(), num_tokens)).double()
    return (losses * loss_mask).sum(), num_tokens.to(torch.int), {"loss": report}


def reduce_losses(outputs: list[dict[str, Tensor]], device: torch.device) -> Tensor:
    """Sum of losses and number of tokens over all micro-batches and ranks, ``[2]`` float64, on every rank."""
    total = torch.zeros(2, dtype=torch.float64, device=device)
    if parallel_state.is_pipeline_last_stage():
        for output in outputs:
            total += output["loss"]
        dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    return from_last_stage(total)
