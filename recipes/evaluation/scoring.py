"""Which forward passes scoring needs: every input once, and what several of them begin with once where that
saves work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Ids = tuple[int, ...]
WORTHWHILE = 0.75
"""What is shared is read on its own if at most this share of the tokens is left; it takes another pass."""
STEP = 16
"""A beginning is only looked for if it is at least so many tokens longer than a more common one."""


@dataclass
class Row:
    """What the model reads in one pass for the requests that need no more than it."""

    ids: Ids
    requests: list[tuple[Ids, list[int]]]
    """(a continuation that ends one token after the row, the requests that ask for it)"""
    begun: int = 0
    """So many of its first tokens have been read for several rows at once."""

    def length(self) -> int:
        return len(self.ids) - self.begun

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

    def cost(self) -> int:
        """Tokens to read."""
        if self.is_worth_reading_once():
            return len(self.ids) + len(self.inputs) * self.longest
        return self.cost_behind(0)

    def cost_behind(self, begun: int) -> int:
        """Tokens to read, continuation by continuation, if so many first ones are read already."""
        return sum(len(self.ids) - begun + len(row) for row in self.inputs)


@dataclass
class Beginning:
    """Contexts that begin with the same tokens: few examples before every question, the same paragraph."""

    length: int
    contexts: list[Context]

    def cost(self) -> int:
        """Tokens to read."""
        return self.length + sum(context.cost_behind(self.length) for context in self.contexts)


def shared_beginnings(
    contexts: Sequence[Context], least: int, begun: int = 0
) -> tuple[list[Beginning], list[Context]]:
    """What is worth reading once for several contexts, and the contexts for which nothing is.

    Args:
        least: the tokens that one of the beginnings saves at least.
        begun: tokens that all contexts are known to have in common.
    """
    found: list[Beginning] = []
    others: list[Context] = []
    for run, length in _runs(sorted(contexts, key=lambda context: context.ids), begun + STEP):
        if len(run) == 1:
            others += run
            continue
        inner, alone = shared_beginnings(run, least, length)
        outer, plain = Beginning(length, run), sum(context.cost() for context in run)
        cost = sum(beginning.cost() for beginning in inner) + sum(context.cost() for context in alone)
        if outer.cost() < cost and outer.cost() <= min(WORTHWHILE * plain, plain - least):
            inner, alone = [outer], []
        found += inner
        others += alone
    return found, others


def _runs(ordered: Sequence[Context], least: int) -> Iterator[tuple[list[Context], int]]:
    """Neighbours that have at least so many first tokens in common, with how many they all have.

    Each has one more: the first token of a continuation is predicted after it.
    """
    run: list[Context] = []
    length = 0
    for context in ordered:
        common = _in_common(run[-1].ids, context.ids) if run else 0
        if run and common < least:
            yield run, length
            run = []
        length = min(length, common) if len(run) > 1 else common
        run.append(context)
    if run:
        yield run, length


def _in_common(one: Ids, other: Ids) -> int:
    most = min(len(one), len(other)) - 1
    return next((i for i in range(most) if one[i] != other[i]), max(0, most))


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


def size_of_rows(rows: Sequence[Row]) -> tuple[int, ...]:
    """What memory is needed for: tokens that are read, keys and values of all, positions that are scored."""
    read = len(rows) * max(row.length() for row in rows)
    return read, read + len(rows) * rows[0].begun, sum(row.scored() for row in rows)


def size_of_contexts(contexts: Sequence[Context]) -> tuple[int, ...]:
    """The same, for contexts of equal length that are read once."""
    count, longest = sum(len(context.inputs) for context in contexts), max(c.longest for c in contexts)
    length = len(contexts[0].ids)
    return (
        max(len(contexts) * length, count * longest),
        len(contexts) * length + count * (length + longest),
        sum(context.scored for context in contexts),
    )
