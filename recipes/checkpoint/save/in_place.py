"""The distributed optimizer's state in checkpoints: every rank describes what it has, where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from recipes.optim.own_parts import described_parameters, own_parts, owned_ranges


@contextmanager
def in_place(optimizer: MegatronOptimizer) -> Iterator[None]:
    """``sharded_state_dict`` and ``load_state_dict`` in the form ``fully_reshardable`` ask no other rank.

    megatron-core gathers the whole state in the host memory of every data-parallel rank, 12 bytes for each
    parameter of a model-parallel rank, while training waits. The first of these ranks writes it, alone. To
    load it, every rank reads all of it.
    """
    parts = [part for part in optimizer.chained_optimizers if isinstance(part, DistributedOptimizer)]
    for part in parts:
        part.sharded_param_state_fully_reshardable = partial(_own_state, part)
        part.load_parameter_state_from_fully_reshardable = _already_in_place
    try:
        yield
    finally:
        for part in parts:
            del part.sharded_param_state_fully_reshardable
            del part.load_parameter_state_from_fully_reshardable


def _own_state(part: DistributedOptimizer, model_state: ShardedStateDict, *_: Any) -> dict[str, Any]:
    described = described_parameters(model_state)
    return {
        str(number): {
            kind: own_parts(described[id(parameter)], f"optimizer.state.{kind}", tensor, own)
            for kind, tensor in part._get_main_param_and_optimizer_states(parameter).items()
        }
        for number, (parameter, own) in enumerate(owned_ranges(part))
    }


def _already_in_place(loaded: dict[str, Any]) -> None:
    """What was read is where it belongs: the parts share the optimizer's memory."""
