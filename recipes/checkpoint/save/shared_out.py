"""Who writes the tensors that all data-parallel ranks have: each its share of them."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.exchange_utils import (
    ShardDistribution,
    determine_main_replica_uniform_distribution,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    distribute_main_replicas_with_precomputed_distribution,
)


class SharedOut:
    """megatron-core's distribution of a state's tensors over the ranks that have them, by size.

    Ranks tell each other once which tensors they have; later states must hold the same ones. megatron-core's
    own wrapper for it also compares the shards of all ranks on all ranks, see ``VALIDATED_UP_TO``.
    """

    def __init__(self) -> None:
        self._distribution: ShardDistribution | None = None

    def apply(self, sharded: dict[str, Any]) -> None:
        """Changes who writes what; called by all ranks together."""
        # Over gloo: the device may still be busy with a step.
        gloo = torch.cuda.is_available()
        group = (
            parallel_state.get_data_parallel_group_gloo if gloo else parallel_state.get_data_parallel_group
        )(with_context_parallel=True)
        if self._distribution is None:
            self._distribution = determine_main_replica_uniform_distribution(sharded, group)
        distribute_main_replicas_with_precomputed_distribution(sharded, group, self._distribution)
