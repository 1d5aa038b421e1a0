"""A range of a tensor's numbers in the order of memory as boxes."""

from __future__ import annotations

import pytest
import torch

from recipes.optim.own_parts import boxes


@pytest.mark.parametrize("shape", [(7,), (3, 5), (1, 6), (2, 3, 4), (3, 1, 2)])
def test_boxes_are_the_range_in_order(shape: tuple[int, ...]) -> None:
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    for start in range(numbers.numel() + 1):
        for stop in range(start, numbers.numel() + 1):
            found = list(boxes(shape, start, stop))
            cut = [
                numbers[tuple(slice(a, a + n) for a, n in zip(*box, strict=True))].flatten() for box in found
            ]
            assert torch.cat([torch.empty(0), *cut]).tolist() == list(range(start, stop))
            assert len(found) <= 2 * len(shape) - 1 and all(part.numel() for part in cut)
