"""Batches under a token budget."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def token_batches(items: Sequence[T], length: Callable[[T], int], max_tokens: int) -> Iterator[list[T]]:
    """Split items sorted longest first into batches whose padded size, rows x longest, is at most
    `max_tokens`.

    An item longer than the budget makes a batch of its own.
    """
    start = 0
    while start < len(items):
        rows = max(1, max_tokens // length(items[start]))
        yield list(items[start : start + rows])
        start += rows
