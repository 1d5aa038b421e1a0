"""Every conversation is in one sample, samples are as full as they can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.chat.packing import pack


@given(st.lists(st.integers(0, 30), max_size=200))
def test_all_are_packed_once(lengths: list[int]) -> None:
    samples = pack(np.array(lengths, dtype=np.int32), 30)
    packed = sorted(number for sample in samples for number in sample)
    assert packed == [number for number, length in enumerate(lengths) if length]
    filled = [sum(lengths[number] for number in sample) for sample in samples]
    assert all(0 < size <= 30 for size in filled)
    # No two samples could have been one.
    smallest = sorted(filled)[:2]
    assert len(smallest) < 2 or sum(smallest) > 30


def test_best_fit() -> None:
    assert pack(np.array([5, 9, 4, 1, 6, 10]), 10) == [[5], [1, 3], [4, 2], [0]]
