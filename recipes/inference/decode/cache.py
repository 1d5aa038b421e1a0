"""The static cache of keys and values: one row per slot, as long as a layer can look back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recipes.inference.decode.weights import Weights


class Cache:
    """Keys and values of every layer, ``[slots, groups, capacity, d]``.

    A layer with a window keeps a ring of as many tokens as the window has: position p lies at p % capacity,
    and softmax does not care about the order. Other layers keep ``max_length`` tokens.
    """

    def __init__(self, weights: Weights, slots: int, max_length: int) -> None:
        self.capacities = [min(layer.window or max_length, max_length) for layer in weights.layers]
        shapes = [(slots, weights.groups, capacity, weights.width) for capacity in self.capacities]
        options: Any = {"dtype": weights.dtype, "device": weights.device}
        # Zeros: what was never written is masked, but not-a-number times zero would still show.
        self.keys = [torch.zeros(shape, **options) for shape in shapes]
        self.values = [torch.zeros(shape, **options) for shape in shapes]

    def move(self, source: int, target: int) -> None:
        """Copies one slot's tokens over another's."""
        for tensor in (*self.keys, *self.values):
            tensor[target].copy_(tensor[source])

    def earlier(self, layer: int, slots: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Keys and values ``[n, groups, s, d]`` of the last tokens before ``start`` that the layer keeps."""
        capacity = self.capacities[layer]
        places = torch.arange(max(0, start - capacity), start, device=slots.device) % capacity
        index = (slots[:, None], slice(None), places[None])
        # Advanced indices around a slice: the indexed axes come first, [n, s, groups, d].
        return self.keys[layer][index].transpose(1, 2), self.values[layer][index].transpose(1, 2)


FEW = 2
"""So few prompts are copied one by one, which takes less time than the indices of all their tokens."""


class Writes:
    """Where the tokens of one pass over prompts go, for all layers of one capacity."""

    def __init__(
        self, slots: Sequence[int], ends: Sequence[int], start: int, capacity: int, device: torch.device
    ) -> None:
        """
        Args:
            slots: of the rows.
            ends: where each row's tokens end, as a position.
            start: the position of the pass's first token.
        """
        begins = [max(start, end - capacity) for end in ends]
        spans = list(zip(slots, begins, ends, strict=True))
        self.slices: list[tuple[int, slice, int, slice]] | None = None
        if len(spans) <= FEW and all(b % capacity + e - b <= capacity for _, b, e in spans):
            self.slices = [
                (slot, slice(b % capacity, b % capacity + e - b), row, slice(b - start, e - start))
                for row, (slot, b, e) in enumerate(spans)
            ]
            return
        rows, places, targets, positions = [], [], [], []
        for row, (slot, begin, end) in enumerate(spans):
            for position in range(begin, end):
                rows.append(row)
                places.append(position - start)
                targets.append(slot)
                positions.append(position % capacity)
        index = torch.tensor([rows, places, targets, positions], device=device)
        self.rows, self.places, self.targets, self.positions = index.unbind()

    def write(self, tensor: Tensor, new: Tensor) -> None:
        """Puts ``new`` ``[n, s, groups, d]`` into a layer's keys or values."""
        if self.slices is not None:
            for slot, positions, row, places in self.slices:
                tensor[slot, :, positions] = new[row, places].transpose(0, 1)
            return
        tensor[self.targets, :, self.positions] = new[self.rows, self.places]
