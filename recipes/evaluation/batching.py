"""Batches under a token budget."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def token_batches(
    items: Sequence[T],
    length: Callable[[T], int],
    max_tokens: int,
    scored: Callable[[T], int] = lambda item: 0,
    max_scored: int = 0,
    enough: int | None = None,
    begun: int = 0,
) -> Iterator[list[T]]:
    """Split items sorted longest first into batches that keep two budgets.

    Args:
        length: an item's tokens.
        max_tokens: of a batch's padded size, rows x longest.
        scored: the positions of an item at which the output head is computed.
        max_scored: of a batch's sum of those.
        enough: from so many tokens on, a batch takes no item that would be padded by more than an eighth.
        begun: tokens before every item, which are not read again. Their keys and values are copied to every
            row, which may so hold twice ``max_tokens``.

    An item over a budget makes a batch of its own.
    """
    start = 0
    while start < len(items):
        end, positions = start + 1, scored(items[start])
        longest = length(items[start])
        rows = max(1, min(max_tokens // longest, 2 * max_tokens // (begun + longest)))
        while end < min(start + rows, len(items)) and positions + scored(items[end]) <= max_scored:
            if (
                enough is not None
                and (end - start) * longest >= enough
                and 8 * length(items[end]) < 7 * longest
            ):
                break
            positions += scored(items[end])
            end += 1
        yield list(items[start:end])
        start = end
