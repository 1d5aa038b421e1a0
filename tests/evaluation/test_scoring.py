"""What is read once, and in which batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recipes.evaluation.scoring import Context, by_context, context_batches, shared_beginnings

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


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 9)), max_size=20))
def test_beginnings_are_begun_by_all_and_save_tokens(drawn: list[tuple[str, int, int]]) -> None:
    requests = [
        ([*map(ord, shown * 30), *range(middle), 99, end], [1, choice])
        for shown, middle, end in drawn
        for choice in range(2)
    ]
    contexts = by_context(requests, 100)
    beginnings, others = shared_beginnings(contexts, least=20)
    within = [context for beginning in beginnings for context in beginning.contexts]
    assert sorted(c.ids for c in [*within, *others]) == sorted(c.ids for c in contexts)
    for beginning in beginnings:
        assert len({context.ids[: beginning.length] for context in beginning.contexts}) == 1
        assert all(len(context.ids) > beginning.length for context in beginning.contexts)
        assert beginning.cost() + 20 <= sum(context.cost() for context in beginning.contexts)


def test_the_longest_beginnings_that_save_most() -> None:
    """An instruction that all have is less than the examples of each subject after it."""
    instruction = range(20)
    subjects = [[*instruction, *[100 + subject] * 80] for subject in range(3)]
    contexts = by_context([([*s, 7, n], [1]) for s in subjects for n in range(10)], 200)
    beginnings, others = shared_beginnings(contexts, least=20)
    assert [beginning.length for beginning in beginnings] == [101] * 3 and not others
    few = by_context([([*s, 7], [1]) for s in subjects], 200)  # Nothing but the instruction is shared.
    assert shared_beginnings(few, least=20) == ([], sorted(few, key=lambda context: context.ids))
