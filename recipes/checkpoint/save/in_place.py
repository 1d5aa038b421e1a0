"""The state of a distributed optimizer that is not distributed: where it lies, instead of gathered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

KINDS = ("param", "exp_avg", "exp_avg_sq")


class _WholeParameters:
    """Stands for megatron-core's flat tensor of a buffer's parameters; its slices are what lies there."""

    def __init__(self, by_start: dict[int, Tensor]) -> None:
        self.by_start = by_start

    def __getitem__(self, place: slice) -> Tensor:
        tensor = self.by_start[place.start]
        assert tensor.numel() == place.stop - place.start, "a parameter is asked for as a whole"
        return tensor.detach().flatten()


@contextmanager
def in_place(optimizer: MegatronOptimizer) -> Iterator[None]:
    """``sharded_state_dict`` describes the tensors themselves, if a data-parallel rank has no others to ask.

    megatron-core copies all of it to the host, to the device, and twice to the host, while training waits:
    12 bytes per parameter.
    """
    parts = [
        part
        for part in optimizer.chained_optimizers
        if isinstance(part, DistributedOptimizer) and part.data_parallel_group.size() == 1
    ]
    for part in parts:
        part.get_parameter_state_dp_zero = lambda part=part, **_: _state_of(part)
    try:
        yield
    finally:
        for part in parts:
            del part.get_parameter_state_dp_zero


def _state_of(part: DistributedOptimizer) -> dict[int, Any]:
    """As ``get_parameter_state_dp_zero`` returns it: buffer -> type -> kind -> flat tensor."""
    state: dict[int, Any] = {}
    for index, buffer in enumerate(part.buffers):
        (dtype,) = part.gbuf_ranges[index]
        tensors = {
            start: part._get_main_param_and_optimizer_states(parameter)
            for parameter, (start, _, _) in buffer.param_index_map.items()
        }
        state[index] = {
            dtype: {
                kind: _WholeParameters({start: found[kind] for start, found in tensors.items()})
                for kind in KINDS
            }
        }
    return state
