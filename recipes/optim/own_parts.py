"""What a data-parallel rank has of a parameter's optimizer state, as parts of the tensor in a checkpoint.

The distributed optimizer gives every rank a range of a parameter's numbers in the order of memory. Such a
range of a matrix is three boxes or fewer, and boxes are what torch_dist files are made of. So every rank can
save and load what it has without asking another one, and any layout can read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedStateDict,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor
from torch.nn import Parameter

Shape = tuple[int, ...]
Described: TypeAlias = ShardedTensor | ShardedTensorFactory


def described_parameters(model_state: ShardedStateDict) -> dict[int, Described]:
    """``id`` of a parameter -> how checkpoints describe it."""
    sharded, _ = extract_sharded_tensors_and_factories(model_state)
    return {id(each.data): each for each in nested_values(sharded)}


def owned_ranges(part: DistributedOptimizer) -> Iterator[tuple[Parameter, range]]:
    """The parameters of which this rank updates numbers, and which ones, in the order of memory."""
    for by_type in part.gbuf_ranges:
        for buckets in by_type.values():
            for bucket in buckets:
                for parameter, places in bucket["param_map"].items():
                    yield parameter, range(places["param"].start, places["param"].end)


def own_parts(parameter: Described, prefix: str, data: Tensor, own: range) -> list[ShardedTensor]:
    """What of a tensor like ``parameter`` this rank has.

    Args:
        parameter: the parameter's description.
        prefix: what the tensor's key has before the parameter's.
        data: ``[len(own)]``; the parts share its memory, so that it is loaded in place.
        own: which of the parameter's numbers, in the order of memory, these belong to.
    """
    begin = parameter.data.storage_offset()
    parts: list[ShardedTensor] = []
    for whole in _tensors(parameter):
        # A factory's tensors lie one after the other in the parameter: the halves of a gated layer.
        assert whole.data.is_contiguous(), f"{whole.key} is stored in another order than it lies in memory"
        first = whole.data.storage_offset() - begin
        start, stop = max(own.start, first), min(own.stop, first + whole.data.numel())
        at = start - own.start
        for offset, shape in boxes(whole.local_shape, start - first, stop - first):
            size = math.prod(shape)
            parts.append(_part(whole, f"{prefix}.{whole.key}", data[at : at + size], offset, shape))
            at += size
    return parts


def boxes(shape: Iterable[int], start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    """Offsets and shapes of the boxes that a tensor's numbers ``start`` to ``stop`` make up, in order."""
    _, *inner = shape
    if start >= stop:
        return
    if not inner:
        yield (start,), (stop - start,)
        return
    row = math.prod(inner)
    whole = range(-(-start // row), stop // row)
    if whole.start > whole.stop:  # Within one row.
        yield from _in_row(inner, whole.stop, start, stop)
        return
    yield from _in_row(inner, whole.start - 1, start, whole.start * row)
    if whole:
        yield (whole.start, *(0 for _ in inner)), (len(whole), *inner)
    yield from _in_row(inner, whole.stop, whole.stop * row, stop)


def _in_row(inner: list[int], number: int, start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    begin = number * math.prod(inner)
    for offset, shape in boxes(inner, start - begin, stop - begin):
        yield (number, *offset), (1, *shape)


def _tensors(parameter: Described) -> list[ShardedTensor]:
    return [parameter] if isinstance(parameter, ShardedTensor) else list(nested_values(parameter.build()))


def _part(whole: ShardedTensor, key: str, data: Tensor, offset: Shape, shape: Shape) -> ShardedTensor:
    leading = whole.prepend_axis_num  # Axes that the parameter lacks: layers, experts.
    inside = (0,) * leading + offset
    shape = (1,) * leading + shape
    return replace(
        whole,
        key=key,
        data=data.detach().view(shape),
        dtype=data.dtype,
        local_shape=shape,
        global_offset=tuple(a + b for a, b in zip(whole.global_offset, inside, strict=True)),
        axis_fragmentations=None,  # No grid: ranks cut parameters anywhere.
        # No other data-parallel rank has these numbers.
        replica_id=(*whole.replica_id[:2], 0),
        prepend_axis_num=0,
    )
