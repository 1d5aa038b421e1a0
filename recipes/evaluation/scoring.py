"""Which forward passes scoring needs: every input once, and every context once where that saves work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Ids = tuple[int, ...]
WORTHWHILE = 0.75
"""A context is read on its own if that leaves at most this share of the tokens; it takes a second pass."""


@dataclass
class Row:
    """What the model reads in one pass for the requests that need no more than it."""

    ids: Ids
    requests: list[tuple[Ids, list[int]]]
    """(a continuation that ends one token after the row, the requests that ask for it)"""

    def length(self) -> int:
        return len(self.ids)

    def scored(self) -> int:
        """The positions before which a continuation begins or goes on: the row's last ones."""
        return max(len(continuation) for continuation, _ in self.requests)


@dataclass
class Context:
    """A context with the continuations that are to be scored after it."""

    ids: Ids
    requests: dict[Ids, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Continuation -> the requests that ask for it."""

    @property
    def inputs(self) -> set[Ids]:
        """What the model reads: a continuation's last token is only scored."""
        return {continuation[:-1] for continuation in self.requests}

    @property
    def longest(self) -> int:
        """Tokens of the longest input after the context."""
        return max(map(len, self.inputs))

    @property
    def scored(self) -> int:
        """Positions at which the output head is computed if the context is read once."""
        return 1 + sum(map(len, self.inputs))

    def is_worth_reading_once(self) -> bool:
        """Whether reading it once, then its continuations after it, takes clearly fewer tokens."""
        rows = len(self.inputs)
        return bool(self.ids) and (
            len(self.ids) + rows * self.longest <= WORTHWHILE * rows * (len(self.ids) + self.longest)
        )


def by_context(requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> list[Context]:
    """Groups (context, continuation) pairs; what does not fit into the model is cut off at the front."""
    contexts: dict[Ids, Context] = {}
    for index, (context, continuation) in enumerate(requests):
        room = max_length + 1 - len(continuation)
        ids = tuple(context[max(0, len(context) - room) :])
        contexts.setdefault(ids, Context(ids)).requests[tuple(continuation)].append(index)
    return list(contexts.values())


def context_batches(contexts: Sequence[Context], max_tokens: int, max_scored: int) -> Iterator[list[Context]]:
    """Batches of contexts of equal length, which need no padding, under two budgets.

    Args:
        max_tokens: of what is read: contexts, and continuations with their padding. The keys and values of
            contexts, which are copied to every continuation, may be twice as many.
        max_scored: positions at which the output head is computed.
    """
    batch: list[Context] = []
    rows = longest = scored = 0
    for context in sorted(contexts, key=lambda context: (-len(context.ids), -context.longest, context.ids)):
        length = len(context.ids)
        new_rows, new_longest = rows + len(context.inputs), max(longest, context.longest)
        read = (len(batch) + 1) * length + new_rows * new_longest
        copied = new_rows * (length + new_longest)
        fits = read <= max_tokens and copied <= 2 * max_tokens and scored + context.scored <= max_scored
        if batch and (length != len(batch[0].ids) or not fits):
            yield batch
            batch, scored = [], 0
            new_rows, new_longest = len(context.inputs), context.longest
        batch.append(context)
        rows, longest, scored = new_rows, new_longest, scored + context.scored
    if batch:
        yield batch
