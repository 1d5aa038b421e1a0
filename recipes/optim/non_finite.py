"""Steps whose gradients are not finite: the device finds them and leaves everything as it was.

The host learns of them a step later (recipes/training/skipped_steps.py), when the device is already at work
on the next one: nothing waits. As fp16's skipped steps in Megatron, such a step changes neither weights nor
moments and does not count for AdamW's bias correction.
"""

from __future__ import annotations

import torch
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from recipes.optim.adamw import AdamW
from recipes.optim.muon import Muon


def skip_non_finite_steps(optimizer: MegatronOptimizer) -> None:
    """From now on ``optimizer.step()`` changes nothing if the gradient norm of all ranks is not finite."""
    norm_of_gradients = optimizer.get_grad_norm
    inner = _inner(optimizer)
    for each in inner:
        if isinstance(each, AdamW):
            each.behind = torch.zeros((), device=torch.cuda.current_device())

    def get_grad_norm() -> Tensor:
        # megatron-core calls it once per step, before it touches anything; the norm is the same on all ranks.
        norm: Tensor = norm_of_gradients()
        skip = norm.isfinite().logical_not().float()
        for each in inner:
            each.skip = skip
        return norm

    optimizer.get_grad_norm = get_grad_norm


def take_back_skipped_step(optimizer: MegatronOptimizer) -> None:
    """Called once for each skipped step when the host has learned of it: its counts become the device's."""
    for each in _inner(optimizer):
        if isinstance(each, AdamW):
            each.take_back()
            assert each.behind is not None
            each.behind.sub_(1)
    if hasattr(optimizer, "num_steps"):  # MuonAdamW's, which its checkpoints hold.
        optimizer.num_steps -= 1


def forget_skipped_steps(optimizer: MegatronOptimizer) -> None:
    """Before a checkpoint is loaded over a state that has skipped a step of which the host does not know."""
    for each in _inner(optimizer):
        if isinstance(each, AdamW) and each.behind is not None:
            each.behind.zero_()


def _inner(optimizer: MegatronOptimizer) -> list[AdamW | Muon]:
    parts = [each.optimizer for each in optimizer.chained_optimizers]
    return [part for part in parts if isinstance(part, AdamW | Muon)]
