"""The blending rule in windows: bit for bit megatron-core's, wherever a window, a lane or a resume begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.helpers import build_blending_indices
from numpy.typing import NDArray

from recipes.data.samples import greedy
from recipes.data.samples.greedy import GreedyOrder

LONG = [
    [1.0],
    [0.75, 0.25],
    [1.0, 1.0, 1.0],
    [0.4, 0.3, 0.2, 0.1],
    [1.0, 1e-3],
    [1.0, 1e-6],
    [3.0, 1.0, 1e-4, 2e-5, 1e-6],
    [1e-6] * 5 + [1.0],
    [0.1] * 10,
    [float(weight) for weight in np.random.default_rng(1).pareto(1.0, 30) + 1e-3],
]
weight_lists = st.lists(
    st.floats(1e-6, 1e3) | st.sampled_from([1.0, 0.5, 0.25, 1 / 3, 0.1]), min_size=1, max_size=7
)


def engine(weights: list[float], count: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """megatron-core's own: sources and indices within them."""
    source_of, index_in_source = np.zeros(count, dtype=np.int16), np.zeros(count, dtype=np.int64)
    shares = np.array(weights, dtype=np.float64) / sum(weights)
    build_blending_indices(source_of, index_in_source, shares, len(weights), count, False)
    return source_of, index_in_source


def order_of(order: GreedyOrder, samples: range) -> tuple[list[int], list[int]]:
    located = [order.locate(sample) for sample in samples]
    return [source for source, _ in located], [index for _, index in located]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "WINDOW", 35)
    monkeypatch.setattr(greedy, "STEPS", 5)
    monkeypatch.setattr(greedy, "_CACHED_LANES", 3)


shared_fixture = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(weights=weight_lists, count=st.integers(0, 300))
@shared_fixture
def test_as_the_engine(weights: list[float], count: int, small_windows: None) -> None:
    source_of, index_in_source = engine(weights, count)
    order = GreedyOrder(weights, count)
    assert order_of(order, range(count)) == (source_of.tolist(), index_in_source.tolist())


@given(data=st.data(), weights=weight_lists)
@shared_fixture
def test_taken_up_anywhere_and_in_any_order(data: Any, weights: list[float], small_windows: None) -> None:
    count = 250
    source_of, index_in_source = engine(weights, count)
    counts = [np.bincount(source_of[:n], minlength=len(weights)).tolist() for n in range(count + 1)]
    begin = data.draw(st.integers(0, count))
    order = GreedyOrder(weights, count, (begin, counts[begin]))
    for sample in data.draw(st.lists(st.integers(0, count - 1), max_size=20)):
        assert order.locate(sample) == (source_of[sample], index_in_source[sample])
        assert order.counts_at(sample) == counts[sample]
        least, most = order.bounds_at(sample)
        assert all(a <= b <= c for a, b, c in zip(least, counts[sample], most, strict=True))
    assert order.counts_at(count) == counts[count]


@pytest.mark.parametrize("weights", LONG, ids=lambda weights: str(weights)[:30])
@pytest.mark.parametrize("steps", [64, 1024])
def test_many_lanes(weights: list[float], steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for rare sources to be drawn, in lanes that are shorter and longer than it takes."""
    monkeypatch.setattr(greedy, "WINDOW", 1 << 16)
    monkeypatch.setattr(greedy, "STEPS", steps)
    count = 3 << 16
    source_of, index_in_source = engine(weights, count)
    order = GreedyOrder(weights, count)
    found = np.concatenate(
        [order._window_of(first).source_of.ravel() for first in range(0, count, greedy.WINDOW)]
    )
    assert np.array_equal(found, source_of)
    for sample in (0, 1, 63, 64, 65_535, 65_536, 100_001, count - 1):
        assert order.locate(sample) == (source_of[sample], index_in_source[sample])


@pytest.mark.parametrize("weights", LONG, ids=lambda weights: str(weights)[:30])
def test_far_into_a_run(weights: list[float]) -> None:
    """At 1.8 billion samples the products are rounded; they must be as in a loop over doubles."""
    begin, count = 1_800_000_000, 3000
    shares = [weight / sum(np.array(weights)) for weight in weights]
    given_so_far = [int(share * begin) for share in shares]
    given_so_far[0] += begin - sum(given_so_far)
    order = GreedyOrder(weights, begin + count, (begin, list(given_so_far)))
    for sample in range(begin, begin + count):
        behind = [share * sample - before for share, before in zip(shares, given_so_far, strict=True)]
        choice = behind.index(max(behind))
        assert order.locate(sample) == (choice, given_so_far[choice])
        given_so_far[choice] += 1
    assert order.counts_at(begin + count) == given_so_far


def test_memory_is_that_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an order holds after many windows are their counts, not their samples."""
    monkeypatch.setattr(greedy, "WINDOW", 4096)
    monkeypatch.setattr(greedy, "STEPS", 64)
    order = GreedyOrder([0.7, 0.3], 1 << 16)
    order.locate((1 << 16) - 1)
    assert order._window.source_of.nbytes == 2 * 4096
    assert len(order._counts) == (1 << 16) // 4096 + 1
