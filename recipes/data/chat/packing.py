"""Whole conversations put together so that they fill samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.integer], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each where it leaves the least room.

    Args:
        lengths: none above the capacity; those of length 0 are left out.

    Returns:
        For each sample the numbers of what is in it. Always the same for the same lengths.
    """
    samples: list[list[int]] = []
    room: list[list[int]] = [[] for _ in range(capacity + 1)]
    """Samples by the tokens that still fit."""
    rooms = 0  # Bit n: there is a sample with room for n. The lowest one above a length is found at once.
    for number in _longest_first(lengths):
        length = int(lengths[number])
        enough = rooms >> length
        if enough:
            left = length + (enough & -enough).bit_length() - 1
            sample = room[left].pop()
            if not room[left]:
                rooms &= ~(1 << left)
            samples[sample].append(number)
            left -= length
        else:
            sample, left = len(samples), capacity - length
            samples.append([number])
        if left:
            room[left].append(sample)
            rooms |= 1 << left
    return samples


def _longest_first(lengths: NDArray[np.integer]) -> Iterable[int]:
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    return order[: int(np.count_nonzero(lengths))].tolist()
