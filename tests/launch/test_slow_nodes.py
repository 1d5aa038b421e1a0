"""Which node is at fault, from pairs of nodes."""

from __future__ import annotations

from collections.abc import Set

import pytest

from recipes.launch.slow_nodes import TURNS, SlowNodes

FLOOR = 10.0


def found(count: int, slow: Set[int], broken: Set[int] = frozenset()) -> tuple[SlowNodes, int]:
    """The search among ``count`` nodes, and the turns that it took."""
    search, turns = SlowNodes(range(count), FLOOR), 0
    while pairs := search.next_pairs():
        in_pairs = [node for pair in pairs for node in pair]
        assert len(in_pairs) == len(set(in_pairs)), "two measurements at the same time share a node"
        assert not set(pairs) & set(search.pairs), "measured before"
        search.learn(
            {pair: None if broken & set(pair) else 1.0 if slow & set(pair) else 20.0 for pair in pairs}
        )
        turns += 1
    return search, turns


@pytest.mark.parametrize("count", [2, 4, 64])
def test_where_all_are_fast_one_turn_is_enough(count: int) -> None:
    search, turns = found(count, set())
    assert turns == 1 and search.fast == list(range(count)) and not search.slow


def test_a_node_without_a_partner_meets_a_fast_one() -> None:
    search, turns = found(5, set())
    assert turns == 2 and search.fast == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("slow", range(3))
def test_of_three_nodes_the_slow_one_is_found(slow: int) -> None:
    """A run on two nodes with a spare."""
    search, turns = found(3, {slow})
    assert list(search.slow) == [slow] and search.slow[slow][1] == 1.0 and turns <= 3
    assert search.fast == [node for node in range(3) if node != slow]


def test_the_partner_of_a_slow_node_is_not_blamed() -> None:
    search, turns = found(64, {5, 40})
    assert set(search.slow) == {5, 40} and len(search.fast) == 62 and turns == 2


def test_more_slow_nodes_than_fast_ones() -> None:
    search, _ = found(8, {0, 1, 2, 3, 4, 5})
    assert set(search.slow) == {0, 1, 2, 3, 4, 5} and search.fast == [6, 7]


def test_a_pair_that_comes_to_no_end() -> None:
    search, _ = found(4, set(), broken={3})
    assert set(search.slow) == {3} and search.slow[3][1] is None and search.slow[3][0] in search.fast


@pytest.mark.parametrize("count", [2, 3, 64])
def test_where_all_are_slow_nobody_is_blamed(count: int) -> None:
    search, turns = found(count, set(range(count)))
    assert not search.slow and not search.fast and turns <= TURNS


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_pair_there_is_nothing_to_measure(count: int) -> None:
    assert found(count, set())[1] == 0
