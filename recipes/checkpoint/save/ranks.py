"""What ranks tell each other about a save, so that all of them go on or all of them end."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from recipes.errors import UserError


def gathered(mine: Any) -> list[Any]:
    """Every rank's object on rank 0, in the ranks' order; empty elsewhere."""
    if dist.get_world_size() == 1:
        return [mine]
    everybody: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, everybody)
    return everybody or []


def raise_together(failure: UserError | None) -> None:
    """Raises rank 0's failure on every rank, if it has one. What other ranks pass does not count."""
    answer = [failure]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if answer[0] is not None:
        raise answer[0]


def all_agree(mine: bool, device: torch.device) -> bool:
    """Whether it is so on every rank."""
    if dist.get_world_size() == 1:
        return mine
    everywhere = torch.tensor(int(mine), device=device)
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    return bool(everywhere.item())
