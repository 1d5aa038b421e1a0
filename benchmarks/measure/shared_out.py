"""Whether what ranks share out is assigned exactly once: samples to read, parts of tensors to write."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from recipes.config.schema import PretrainConfig
from recipes.config.timeline import timeline_of
from recipes.data.samples.loader import StepSampler

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and shape of a part of a tensor."""
Part = tuple[str, tuple[int, ...], Box]
"""A tensor, the whole's shape, and a rank's own part."""


class NotOnce(Exception):
    """Something is assigned to no rank, or to more than one."""


def check_written_once(parts: Iterable[Part]) -> int:
    """Every number of every tensor is in exactly one of all ranks' parts; returns how many there are.

    Raises:
        NotOnce: with the tensor's name.
    """
    boxes_of: dict[str, list[Box]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape, box in parts:
        if shapes.setdefault(key, shape) != shape:
            raise NotOnce(f"{key}: ranks disagree about its shape")
        boxes_of[key].append(box)
    for key, boxes in boxes_of.items():
        if sum(math.prod(shape) for _, shape in boxes) != math.prod(shapes[key]):
            raise NotOnce(f"{key}: {len(boxes)} parts do not make up the whole")
        if _overlap_somewhere(boxes):
            raise NotOnce(f"{key}: two ranks write the same part")
    return sum(math.prod(shape) for shape in shapes.values())


def _overlap_somewhere(boxes: list[Box]) -> bool:
    axis = max(range(len(boxes[0][0])), key=lambda axis: max(offset[axis] for offset, _ in boxes))
    near: list[Box] = []
    for box in sorted(boxes, key=lambda box: box[0][axis]):
        near = [(offset, shape) for offset, shape in near if offset[axis] + shape[axis] > box[0][axis]]
        if any(_overlap(box, other) for other in near):
            return True
        near.append(box)
    return False


def _overlap(a: Box, b: Box) -> bool:
    sides = zip(*a, *b, strict=True)
    return all(start < other + length and other < start + size for start, size, other, length in sides)


def check_samples_once(config: PretrainConfig, data_parallel_size: int, steps: int) -> int:
    """Every sample of some steps is read by exactly one data-parallel rank; returns how many there are.

    Raises:
        NotOnce: with the step.
    """
    timeline = timeline_of(config)
    samplers = [
        iter(
            StepSampler(
                0, steps, timeline, data_parallel_rank=rank, data_parallel_size=data_parallel_size
            )
        )
        for rank in range(data_parallel_size)
    ]  # fmt: skip
    for step in range(steps):
        samples = sorted(index for sampler in samplers for index in next(sampler))
        if samples != list(range(timeline.samples(step), timeline.samples(step + 1))):
            raise NotOnce(f"step {step}: samples are read twice or not at all")
    return timeline.samples(steps)
