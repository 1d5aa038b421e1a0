"""Which processes share the work of an evaluation, and how they exchange answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from recipes.evaluation.journal import Answers

LONGEST_WAIT = timedelta(days=7)
"""One process may need hours more than another: it may have been given a slower machine."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that evaluate a model: alone, unless told otherwise."""

    rank: int = 0
    size: int = 1
    part: int = 0
    """Which share of the work this process does; all ranks of a split model do the same."""
    parts: int = 1
    answers: bool = True
    """Whether this process is the one that hands on the answers of its part."""
    group: ProcessGroup | None = None
    """Of all processes, for objects in main memory."""

    @property
    def others_wait(self) -> bool:
        """Whether this process's passes are those of other ranks too, which wait for it in each of them."""
        started = dist.get_world_size() if dist.is_initialized() else 1
        return max(started, self.size) > self.parts

    def of_others(self, own: Answers) -> Iterator[Answers]:
        """The answers that the other parts have found. Every rank makes this call."""
        if self.parts == 1:
            return
        found: list[Answers] = [{} for _ in range(self.size)]
        dist.all_gather_object(found, own if self.answers else {}, group=self.group)
        yield from (answers for answers in found if answers.keys() - own.keys())

    def any_of_model(self, own: bool) -> bool:
        """Whether it holds on any rank whose passes are this one's. All of them make this call."""
        if not self.others_wait:
            return own
        from megatron.core import parallel_state

        found = torch.tensor(own)
        group = None if self.parts == 1 else parallel_state.get_model_parallel_group()
        # Main memory's numbers, over gloo: devices are not waited for.
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
        return bool(found)

    def any_part(self, own: bool) -> bool:
        """Whether it holds in any part. Every rank makes this call."""
        if self.parts == 1:
            return own
        found = torch.tensor(own)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group)
        return bool(found)


def model_ranks() -> Ranks:
    """The launched processes, megatron-core's groups being there. Every rank makes this call."""
    from megatron.core import parallel_state

    size = dist.get_world_size()
    first = parallel_state.get_tensor_model_parallel_rank() == 0 and parallel_state.is_pipeline_first_stage()
    return Ranks(
        rank=dist.get_rank(),
        size=size,
        part=parallel_state.get_data_parallel_rank(),
        parts=parallel_state.get_data_parallel_world_size(),
        answers=first,
        group=dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if size > 1 else None,
    )
