"""What ranks tell each other about a save, so that either all continue or all stop.

Their processes vote, over gloo: a vote of their devices would wait until these have done all their work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from recipes.errors import UserError


def gathered(value: Any) -> list[Any]:
    """Every rank's ``value``, in the order of ranks, on rank 0; empty elsewhere."""
    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def everywhere(value: Any) -> list[Any]:
    """Every rank's ``value``, in the order of ranks, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def raise_together(failure: UserError | None) -> None:
    """Raises rank 0's failure on every rank, if it has one. What other ranks pass is ignored."""
    answer = [failure]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if answer[0] is not None:
        raise answer[0]


def all_agree(vote: bool) -> bool:
    """Whether every rank votes for it."""
    if dist.get_world_size() == 1:
        return vote
    everywhere = torch.tensor(int(vote))
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    return bool(everywhere.item())


def decided_by_first_rank(answer: bool) -> bool:
    """Rank 0's answer, on every rank."""
    if dist.get_world_size() == 1:
        return answer
    everywhere = torch.tensor(int(answer))
    dist.broadcast(everywhere, src=0)
    return bool(everywhere.item())
