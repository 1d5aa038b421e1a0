"""Decisions that one process takes for all; without torch if there is but one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from recipes.config.world import World
from recipes.errors import UserError

T = TypeVar("T")


def decided_by_first_rank(world: World, timeout_s: float, decide: Callable[[], T]) -> T:
    """Calls ``decide`` on rank 0 only and broadcasts its result. Every rank makes this call.

    Args:
        timeout_s: in which all processes must find each other.

    Raises:
        UserError: what rank 0 raised, on every rank.
    """
    if world.size == 1:
        return decide()
    import torch
    import torch.distributed as dist

    from recipes.parallel.setup import init_process_group

    init_process_group(world, timeout_s)
    answer: list[Any] = [None]
    if world.rank == 0:
        try:
            answer = [decide()]
        except UserError as error:
            answer = [error]
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if isinstance(answer[0], UserError):
        close_process_group(world)
        raise answer[0]
    decided: T = answer[0]
    return decided


def close_process_group(world: World) -> None:
    """Where the processes found each other and nothing is left to do."""
    if world.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
