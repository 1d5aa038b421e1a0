"""Samples of one length after another from one source: what is read, and what is left for the next epoch."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.phases import Phase
from recipes.data.samples.blend import BlendState, RunBlend, continue_blend, stretches_of
from recipes.data.samples.indexed import DocumentReader
from recipes.data.samples.source import BlendSource, Epochs
from tests.support.sources import SEQ_LENGTH, source, source_text, write_source

TOKENS = 900


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "en", TOKENS)


def document_of(prefix: Path) -> dict[int, int]:
    """Of every token its document: tokens count up."""
    reader = DocumentReader(f"{prefix}.bin", f"{prefix}.idx")
    return {int(token): number for number in range(reader.documents) for token in reader[number]}


def read(prefix: Path, parts: list[list[int]], count: int) -> list[list[int]]:
    """The tokens and the last label of samples."""
    own = source(prefix, prefix.parent / "cache", parts=parts)
    return [[*own[n]["tokens"].tolist(), int(own[n]["labels"][-1])] for n in range(count)]


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 250), st.sampled_from([4, 8, 12, 16, 40])), min_size=1, max_size=4
    )
)
@settings(deadline=None, max_examples=40)
def test_no_token_is_read_twice_in_an_epoch(prefix: Path, parts: list[tuple[int, int]]) -> None:
    """After so many samples of each length another one follows, wherever in an epoch that is."""
    own_parts, first = [], 0
    for number, (count, length) in enumerate(parts):
        own_parts.append([first, length])
        first += max(1, count) if number < len(parts) - 1 else 0
    own = source(prefix, prefix.parent / "cache", parts=own_parts)
    by_epoch: dict[int, list[int]] = defaultdict(list)
    epochs = []
    for n in range(first + 30):
        sample = own[n]["tokens"].tolist()
        assert len(sample) == next(length for begin, length in reversed(own_parts) if begin <= n)
        epochs.append(own.epoch_of(n)[1])
        by_epoch[epochs[-1]] += sample
    for tokens in by_epoch.values():
        assert len(set(tokens)) == len(tokens)
    # Epochs follow one another; one is passed over only where a change has left too little of it.
    assert epochs[0] == 0 and epochs == sorted(epochs)
    changes = {begin for begin, _ in own_parts}
    for n, (before, now) in enumerate(pairwise(epochs)):
        assert now - before <= 1 or (now - before == 2 and n + 1 in changes)


def test_an_epoch_is_finished_at_the_other_length(prefix: Path) -> None:
    document = document_of(prefix)
    long = read(prefix, [[0, 8], [20, 16]], 20 + 2 * TOKENS // 16)
    assert long[:20] == read(prefix, [[0, 8]], 20), "what was read before a change does not depend on it"
    begun = {document[token] for sample in long[:20] for token in sample}
    left = [token for token, number in document.items() if number not in begun]
    rest = (len(left) - 1) // 16
    read_of_rest = [token for sample in long[20 : 20 + rest] for token in sample[:-1]]
    assert set(read_of_rest) <= set(left) and len(set(read_of_rest)) == 16 * rest > 300
    # Then whole epochs come, each in the order that it has at this length.
    per_epoch = (TOKENS - 1) // 16
    second = Epochs(source_text(prefix, prefix.parent / "cache"), 16).epoch(1)
    following = long[20 + rest : 20 + rest + per_epoch]
    assert [sample[:-1] for sample in following] == [second[n]["tokens"].tolist() for n in range(per_epoch)]


def test_a_change_between_two_epochs_leaves_nothing_out(prefix: Path) -> None:
    per_epoch = (TOKENS - 1) // 8
    changed = read(prefix, [[0, 8], [per_epoch, 16]], per_epoch + 56)
    assert len({token for sample in changed[per_epoch:] for token in sample[:-1]}) == 56 * 16


def test_a_rest_that_is_too_short_is_left_out(prefix: Path) -> None:
    """All but a few tokens are read: samples of 200 begin with the next epoch."""
    given = (TOKENS - 1) // 8 - 1
    samples = read(prefix, [[0, 8], [given, 200]], given + 4)
    assert len({token for sample in samples[given:] for token in sample[:-1]}) == 800


@given(stops=st.lists(st.integers(1, 119), max_size=3).map(sorted))
@settings(deadline=None, max_examples=6)
def test_resuming_around_a_change_of_length(prefix: Path, stops: list[int]) -> None:
    text = source_text(prefix, prefix.parent / "cache")
    phases = [Phase(0, 40, {"en": 1.0}, 8), Phase(40, 70, {"en": 1.0}, 24), Phase(70, 120, {"en": 1.0}, 8)]

    def run(stops: list[int]) -> list[list[int]]:
        saved: BlendState | None = None
        out: list[list[int]] = []
        for begin, stop in pairwise([0, *stops, 120]):
            stretches = stretches_of(phases, saved, begin, 120)
            own = BlendSource(text, stretches[-1][0].parts["en"])
            blend = RunBlend({"en": own}, stretches)
            blend.build_epochs(begin)
            out += [blend[n]["tokens"].tolist() for n in range(begin, stop)]
            saved = BlendState.from_dict(vars(blend.state_at(stop)))
        return out

    whole = run([])
    assert run(stops) == whole
    assert [len(tokens) for tokens in whole] == [8] * 40 + [24] * 30 + [8] * 50


def test_a_length_that_nothing_was_read_at_leaves_no_trace() -> None:
    state = continue_blend({"en": 1.0}, 8, None, 0)
    longer = continue_blend({"en": 1.0}, 16, state, 20)
    assert longer.parts == {"en": [[0, 8], [20, 16]]} and longer.start == 20
    assert continue_blend({"en": 1.0}, 32, longer, 20).parts == {"en": [[0, 8], [20, 32]]}
    assert continue_blend({"en": 1.0}, 8, longer, 20).parts == {"en": [[0, 8]]}
    both = continue_blend({"en": 1.0, "hi": 1.0}, 16, longer, 24)
    assert both.parts == {"en": [[0, 8], [20, 16]], "hi": [[0, 16]]}


def test_checkpoints_of_earlier_versions_have_one_length() -> None:
    state = {"start": 3, "weights": {"en": 1.0}, "counts": {"hi": 2}}
    assert BlendState.from_dict(state, SEQ_LENGTH).parts == {"en": [[0, SEQ_LENGTH]], "hi": [[0, SEQ_LENGTH]]}
