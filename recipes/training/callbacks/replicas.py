"""Compares the weights of data-parallel replicas: where they differ, a device or its memory has erred."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from megatron.core import parallel_state
from torch import Tensor

from recipes.checkpoint.save.ranks import all_agree
from recipes.console import warn
from recipes.training.module import ParamGPT
from recipes.training.skipped_steps import GuardError

SHOWN = 3


class Replicas(Callback):
    """Ends a run whose replicas do not have the same weights, to the bit.

    The optimizer's state has no replicas: each rank keeps its own part (ZeRO-1). What it sends to the others
    after an update is compared here.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step % self.every_n_steps:
            return
        names = differing_weights(pl_module)
        if names:
            more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
            warn(f"step {step:,}, rank {trainer.global_rank}: {', '.join(names[:SHOWN])}{more} differ")
        if not all_agree(not names):
            raise GuardError(
                f"step {step:,}: weights differ between data-parallel replicas. A device or its memory has "
                "erred: leave out the nodes of the ranks named above, and start again"
            )


@torch.no_grad()
def differing_weights(model: ParamGPT) -> list[str]:
    """Names of this rank's weights that not all of their replicas have. All ranks call it."""
    model.gather_parameters()
    weights = dict(model.gpt.named_parameters())
    experts = {name for name, weight in weights.items() if not getattr(weight, "allreduce", True)}
    differing = []
    for names, group in (
        (weights.keys() - experts, parallel_state.get_data_parallel_group(with_context_parallel=True)),
        (experts, parallel_state.get_expert_data_parallel_group()),
    ):
        ordered = sorted(names)
        if ordered and group.size() > 1:
            sums = torch.stack([_checksum(weights[name]) for name in ordered])
            # The largest of them and, negated, the smallest.
            both = torch.stack((sums, -sums))
            dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
            unequal = (both[0] + both[1]).tolist()
            differing += [name for name, gap in zip(ordered, unequal, strict=True) if gap]
    return differing


def _checksum(weight: Tensor) -> Tensor:
    """A sum, ``[]`` int64, that every flip of a single bit changes."""
    integer = torch.int32 if weight.element_size() == 4 else torch.int16
    return weight.detach().view(integer).sum(dtype=torch.int64)
