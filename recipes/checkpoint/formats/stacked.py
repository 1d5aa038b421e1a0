"""Splits the tensors that distributed checkpoints stack over layers and experts into single ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch

from recipes.checkpoint.formats.lazy import LazyTensor, Part, Shape, check_cover
from recipes.checkpoint.formats.names import (
    EXTRA_STATE,
    canonical_names,
    is_derived,
    leading_axes,
    name_at,
    without_wrapper,
)
from recipes.errors import UserError
from recipes.families.tensors import AVERAGE

MOST_TENSORS = 500_000
# Entries of training checkpoints that do not belong to the model.
NO_WEIGHTS = (AVERAGE, "optimizer.", "chained_", "rerun_state", "rng_state", "opt_param_scheduler")


@dataclass(frozen=True)
class StackedTensor:
    """One entry of a distributed checkpoint."""

    key: str
    """As it is stored."""
    shape: Shape
    dtype: torch.dtype
    parts: tuple[Part, ...]


def is_weight(key: str) -> bool:
    """Whether an entry is a tensor of the model: neither extra state nor the optimizer's, nor an average."""
    name = without_wrapper(key)
    return EXTRA_STATE not in name and not name.startswith(NO_WEIGHTS) and not is_derived(name)


def unstack(label: str, entries: Iterator[StackedTensor]) -> dict[str, LazyTensor]:
    """Canonical name -> tensor.

    Raises:
        UserError: an entry's parts do not cover it, or two entries are the same tensor.
    """
    found: dict[str, LazyTensor] = {}
    for entry in entries:
        for tensor in _slices(label, entry):
            if tensor.name in found:
                raise UserError(f"{label}: {tensor.name} is stored twice")
            found[tensor.name] = tensor
            if len(found) > MOST_TENSORS:
                raise UserError(f"{label}: holds more than {MOST_TENSORS:,} tensors; it is damaged")
    try:
        canonical = canonical_names(found)
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    return {canonical[name]: tensor.renamed(canonical[name]) for name, tensor in found.items()}


def _slices(label: str, entry: StackedTensor) -> Iterator[LazyTensor]:
    key = without_wrapper(entry.key)
    leading = leading_axes(key)
    if len(entry.shape) < leading + 1 or math.prod(entry.shape) == 0:
        raise UserError(f"{label}: {entry.key} has the impossible shape {entry.shape}; it is damaged")
    if math.prod(entry.shape[:leading]) > MOST_TENSORS:
        raise UserError(f"{label}: {entry.key} has the impossible shape {entry.shape}; it is damaged")
    by_place: dict[Shape, list[Part]] = {}
    for part in entry.parts:
        if len(part.size) != len(entry.shape) or any(
            start < 0 or size < 1 or start + size > side
            for start, size, side in zip(part.start, part.size, entry.shape, strict=True)
        ):
            raise UserError(f"{label}: {entry.key}: a part {part.size} at {part.start} lies outside of it")
        ranges = [range(a, a + n) for a, n in zip(part.start[:leading], part.size[:leading], strict=True)]
        for place in product(*ranges):  # The stored tensor keeps its leading axes: an index for each.
            within = tuple(
                number - first + outset
                for number, first, outset in zip(place, part.start, part.inside, strict=False)
            )
            by_place.setdefault(place, []).append(
                replace(
                    part,
                    start=part.start[leading:],
                    size=part.size[leading:],
                    inside=within + part.inside[leading:],
                )
            )
    shape = entry.shape[leading:]
    for place in product(*map(range, entry.shape[:leading])):
        name = name_at(key, place)
        parts = tuple(by_place.get(place, ()))
        check_cover(f"{label}: {name}", shape, parts)
        yield LazyTensor(name, shape, entry.dtype, parts)
