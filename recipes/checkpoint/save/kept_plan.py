"""The plan of a save, kept for the next one of the same tensors."""

from __future__ import annotations

import copy
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from recipes.checkpoint.save.ranks import all_agree


class KeptPlan:
    """What every rank writes and, on rank 0, the description of all of it.

    Made anew, it is gathered on rank 0 and put together there while training waits: seconds with hundreds of
    ranks. megatron-core can keep plans too, but each of its ranks decides alone whether to, and one that
    decides otherwise waits for the others for ever.
    """

    def __init__(self) -> None:
        self._of: list[Any] | None = None
        self._offered_for: list[Any] = []
        self._central: SavePlan | None = None
        self._local: SavePlan | None = None
        self._metadata: Metadata | None = None

    def offer(self, planner: TorchDistSaveShardedStrategy, sharded: dict[str, Any]) -> None:
        """Gives ``planner`` the kept plan if every rank has what it had then; called by all together."""
        self._offered_for = _structure(sharded)
        if all_agree(self._of == self._offered_for):
            planner.use_cached_ckpt_structure = planner.validated_cache_reuse = True
            planner.cached_central_plan, planner.cached_local_plan = self._central, self._local
            planner.cached_global_metadata = self._metadata
        self._of = None  # Until there is a plan again: planning may fail on this rank.

    def keep(self, planner: TorchDistSaveShardedStrategy, metadata: Metadata | None) -> None:
        """Keeps the plan that ``planner`` has made or taken over.

        Args:
            metadata: its description; None except on rank 0.
        """
        self._central, self._local = planner.cached_central_plan, planner.cached_local_plan
        # The one that this save goes on to fill in is its own: the next may be planned before it is written.
        self._metadata, self._of = copy.copy(metadata), self._offered_for


def _structure(sharded: dict[str, Any]) -> list[Any]:
    """All that a plan says of this rank's part of a state: everything but the values."""
    return [_of_shard(shard) for shard in nested_values(sharded)]


def _of_shard(shard: ShardedTensor | ShardedObject) -> tuple[Any, ...]:
    if isinstance(shard, ShardedObject):
        return (shard.key, shard.global_shape, shard.global_offset, shard.replica_id)
    return (
        *(shard.key, shard.dtype, shard.local_shape, shard.global_shape, shard.global_offset),
        *(shard.axis_fragmentations, shard.replica_id, shard.prepend_axis_num, shard.flattened_range),
    )
