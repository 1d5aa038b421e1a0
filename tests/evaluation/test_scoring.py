"""What is read once, and in which batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recipes.evaluation.scoring import Context, by_context, context_batches

ids = st.lists(st.integers(0, 3), min_size=1, max_size=9)
pairs = st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=9), ids), max_size=30)


@given(pairs, st.integers(9, 12))
def test_every_request_is_found_once_and_whole(
    requests: list[tuple[list[int], list[int]]], room: int
) -> None:
    found = {}
    for context in by_context(requests, room):
        for continuation, indices in context.requests.items():
            for index in indices:
                assert index not in found
                found[index] = (context.ids, continuation)
    assert sorted(found) == list(range(len(requests)))
    for index, (context, continuation) in found.items():
        whole = (*requests[index][0], *requests[index][1])
        assert list(continuation) == requests[index][1]
        # lm-eval's rule: the model reads at most `room` tokens, the last token is only scored.
        assert (*context, *continuation) == whole[-(room + 1) :]


@given(pairs, st.integers(1, 60), st.integers(1, 40))
def test_batches_keep_their_budgets(
    requests: list[tuple[list[int], list[int]]], max_tokens: int, max_scored: int
) -> None:
    contexts = by_context(requests, 12)
    batches = list(context_batches(contexts, max_tokens, max_scored))
    assert sorted(context.ids for batch in batches for context in batch) == sorted(c.ids for c in contexts)
    for batch in batches:
        lengths = {len(context.ids) for context in batch}
        rows, longest = sum(len(c.inputs) for c in batch), max(c.longest for c in batch)
        assert len(lengths) == 1
        if len(batch) > 1:
            assert len(batch) * max(lengths) + rows * longest <= max_tokens
            assert sum(context.scored for context in batch) <= max_scored


def context(length: int, *continuations: tuple[int, ...]) -> Context:
    return Context(tuple(range(length)), {continuation: [0] for continuation in continuations})


def test_what_is_worth_reading_once() -> None:
    choices = ((1, 2, 3), (1, 2, 4), (5, 6, 7, 8), (9, 9))
    assert context(40, *choices).is_worth_reading_once()
    assert not context(1, *choices).is_worth_reading_once()  # Next to nothing is shared.
    assert not context(40, choices[0]).is_worth_reading_once()
    assert not context(40, (1,), (2,), (3,), (4,)).is_worth_reading_once()  # One pass has all four already.
    assert context(40, (1,), (2, 3), (4, 5)).inputs == {(), (2,), (4,)}
    assert not context(0, *choices).is_worth_reading_once()
