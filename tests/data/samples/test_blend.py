"""Which sample comes n-th: never a matter of the run's length, its layout or what the blend becomes later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.samples.blend import Blend, BlendState, continue_blend
from recipes.data.samples.greedy import GreedyOrder
from recipes.data.samples.source import BlendSource, SourceText
from tests.support.paths import ROOT
from tests.support.sources import SEQ_LENGTH, per_epoch, source, write_source

FIRST = {"en": 0, "hi": 100_000, "code": 200_000}
TOKENS = {"en": 700, "hi": 300, "code": 90}
WEIGHTS = {"en": 0.7, "hi": 0.2, "code": 0.1}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sources")
    for name, tokens in TOKENS.items():
        write_source(path / name, tokens, FIRST[name], seed=tokens)
    return path


@pytest.fixture(scope="module")
def sources(directory: Path) -> dict[str, BlendSource]:
    return {name: source(directory / name, directory / "cache") for name in TOKENS}


def tokens_of(blend: Blend, samples: range) -> list[list[int]]:
    return [blend[n]["tokens"].tolist() for n in samples]


def greedy(weights: list[float], count: int) -> tuple[list[int], list[int]]:
    """Megatron's rule in plain Python: the source furthest behind its share gives the next sample."""
    total = sum(np.array(weights, dtype=np.float64))
    shares = [weight / total for weight in weights]
    given_so_far, sources, indices = [0] * len(weights), [], []
    for n in range(count):
        lag = [share * max(n, 1) - given for share, given in zip(shares, given_so_far, strict=True)]
        choice = lag.index(max(lag))
        sources.append(choice)
        indices.append(given_so_far[choice])
        given_so_far[choice] += 1
    return sources, indices


weight_lists = st.lists(st.floats(1e-6, 1e3) | st.sampled_from([1.0, 0.5, 0.25]), min_size=1, max_size=6)


@given(weights=weight_lists)
@settings(deadline=None, max_examples=30)
def test_shares_in_the_long_run(weights: list[float]) -> None:
    count = 5000
    given_of = GreedyOrder(weights, count).counts_at(count)
    exact = np.array(weights) / sum(weights) * count
    # Nobody is ever a whole round of sources away from its share.
    assert np.abs(given_of - exact).max() <= len(weights)


def test_exact_shares() -> None:
    assert GreedyOrder([0.75, 0.25], 100_000).counts_at(100_000) == [75_000, 25_000]


def test_tiny_weight_still_counts() -> None:
    assert 2 <= GreedyOrder([1.0, 1e-6], 2_500_000).counts_at(2_500_000)[1] <= 3


def test_epochs_are_permutations_in_different_orders(directory: Path) -> None:
    for name, tokens in TOKENS.items():
        own = source(directory / name, directory / "cache")
        length = per_epoch(own)
        assert length == (tokens - 1) // SEQ_LENGTH
        orders = []
        for epoch in range(4):
            samples = [own[epoch * length + i] for i in range(length)]
            read = [int(token) for sample in samples for token in sample["tokens"]]
            # Every token at most once, and all but those that do not fill a last sample.
            assert len(set(read)) == len(read) == length * SEQ_LENGTH
            assert set(read) <= set(range(FIRST[name], FIRST[name] + tokens))
            for sample in samples:
                assert sample["tokens"][1:].tolist() == sample["labels"][:-1].tolist()
                assert sample["loss_mask"].tolist() == [1.0] * SEQ_LENGTH
            orders.append(read)
        assert len({tuple(order) for order in orders}) == len(orders)


def test_another_seed_is_another_order(directory: Path) -> None:
    first, again, other = (source(directory / "en", directory / "cache", seed) for seed in (1, 1, 50))
    orders = [[own[i]["tokens"].tolist() for i in range(per_epoch(own))] for own in (first, again, other)]
    assert orders[0] == orders[1] != orders[2]


def test_order_does_not_depend_on_the_run_s_length(sources: dict[str, BlendSource], directory: Path) -> None:
    state = continue_blend(WEIGHTS, SEQ_LENGTH, None, 0)
    short, long = Blend(state, 150, sources), Blend(state, 900, sources)
    assert tokens_of(short, range(150)) == tokens_of(long, range(150))


def test_every_source_is_read_in_its_own_order(sources: dict[str, BlendSource], directory: Path) -> None:
    blend = Blend(continue_blend(WEIGHTS, SEQ_LENGTH, None, 0), 600, sources)
    expected_sources, expected_indices = greedy(list(WEIGHTS.values()), 600)
    for n in range(600):
        name = list(WEIGHTS)[expected_sources[n]]
        assert blend.locate(n) == (name, expected_indices[n])
        assert blend[n]["tokens"].tolist() == sources[name][expected_indices[n]]["tokens"].tolist()


def test_counts(sources: dict[str, BlendSource], directory: Path) -> None:
    blend = Blend(continue_blend(WEIGHTS, SEQ_LENGTH, None, 0), 400, sources)
    for sample in (0, 1, 7, 250, 400):
        located = [blend.locate(n)[0] for n in range(sample)]
        assert blend.counts_at(sample) == {name: located.count(name) for name in WEIGHTS}


def history(
    sources: dict[str, BlendSource], directory: Path, changes: list[tuple[int, dict[str, float]]], end: int
) -> list[tuple[str, int]]:
    """What a run read whose blend was changed at the given samples."""
    state, out = None, []
    for (start, weights), stop in zip(changes, [*(start for start, _ in changes[1:]), end], strict=True):
        # A run's end, as known at that time, must not matter: give each stretch another one.
        saved = BlendState.from_dict(json.loads(json.dumps(vars(state)))) if state else None
        state = continue_blend(weights, SEQ_LENGTH, saved, start)
        blend = Blend(state, stop + start % 17, sources)
        out += [blend.locate(n) for n in range(start, stop)]
    return out


@pytest.mark.parametrize(
    "changes",
    [
        [(0, {"en": 1.0, "hi": 1.0}), (100, {"en": 1.0, "hi": 3.0})],
        [(0, WEIGHTS), (60, {"en": 0.5, "hi": 0.5}), (130, WEIGHTS)],
        [(0, {"en": 1.0}), (50, {"en": 0.5, "hi": 0.5}), (90, {"hi": 1.0}), (140, {"en": 1.0, "code": 1.0})],
        [(0, WEIGHTS), (75, {"en": 0.7, "hi": 0.0, "code": 0.1}), (150, WEIGHTS)],
        [(0, WEIGHTS), (33, {"en": 1.0, "hi": 1e-6}), (34, WEIGHTS), (34, {"hi": 1.0})],
    ],
    ids=["weights", "removed_and_back", "grown_and_replaced", "weight_zero", "twice_at_once"],
)
def test_a_changed_blend_goes_on_where_each_source_stood(
    sources: dict[str, BlendSource], directory: Path, changes: list[tuple[int, dict[str, float]]]
) -> None:
    located = history(sources, directory, changes, 200)
    assert len(located) == 200
    for name in WEIGHTS:  # No sample twice, none left out.
        indices = [index for source_name, index in located if source_name == name]
        assert indices == list(range(len(indices)))
    for position, (start, weights) in enumerate(changes):
        stop = changes[position + 1][0] if position + 1 < len(changes) else 200
        names = [name for name, weight in weights.items() if weight > 0]
        expected, _ = greedy([weights[name] for name in names], stop - start)
        assert [name for name, _ in located[start:stop]] == [names[choice] for choice in expected]
    # What was read before a change does not depend on there being one.
    unchanged = history(sources, directory, changes[:1], 200)
    assert located[: changes[1][0]] == unchanged[: changes[1][0]]


def test_resuming_with_the_same_weights_changes_nothing(
    sources: dict[str, BlendSource], directory: Path
) -> None:
    state = continue_blend(WEIGHTS, SEQ_LENGTH, None, 0)
    reordered = dict(reversed(list(WEIGHTS.items())))
    assert continue_blend(WEIGHTS | {"unused": 0.0}, SEQ_LENGTH, state, 123) == state
    assert continue_blend(reordered, SEQ_LENGTH, state, 123) == state
    once = history(sources, directory, [(0, WEIGHTS)], 300)
    assert history(sources, directory, [(0, WEIGHTS), (10, WEIGHTS), (250, reordered)], 300) == once


def test_a_blend_does_not_give_what_came_before_it(sources: dict[str, BlendSource], directory: Path) -> None:
    state = continue_blend({"hi": 1.0}, SEQ_LENGTH, continue_blend(WEIGHTS, SEQ_LENGTH, None, 0), 40)
    blend = Blend(state, 60, sources)
    assert blend.locate(40) == ("hi", 8)
    with pytest.raises(IndexError, match="before the blend's start 40"):
        blend.locate(39)


def test_other_processes_agree(directory: Path) -> None:
    """Nothing hangs on this process's hash seed or on an index cache that is already there."""
    code = """
import json, sys
from pathlib import Path
from recipes.data.samples.blend import Blend, continue_blend
from tests.support.sources import SEQ_LENGTH, source
directory, cache = Path(sys.argv[1]), Path(sys.argv[2])
weights = json.loads(sys.argv[3])
sources = {name: source(directory / name, cache) for name in weights}
blend = Blend(continue_blend(weights, SEQ_LENGTH, None, 0), 120, sources)
print(json.dumps([blend[n]["tokens"].tolist() for n in range(120)]))
"""
    fresh = directory / "fresh_cache"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory), str(fresh), json.dumps(WEIGHTS)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    sources = {name: source(directory / name, directory / "cache") for name in WEIGHTS}
    blend = Blend(continue_blend(WEIGHTS, SEQ_LENGTH, None, 0), 120, sources)
    assert json.loads(done.stdout.splitlines()[-1]) == tokens_of(blend, range(120))


def test_end_of_document_mask(directory: Path) -> None:
    """Only predictions made at the end-of-document token are left out."""
    from types import SimpleNamespace
    from typing import Any

    tokenizer: Any = SimpleNamespace(eos_id=50, sha256="1" * 64)
    text = SourceText(
        str(directory / "en"), tokenizer, seed=1, eod_mask_loss=True, cache_dir=directory / "cache"
    )
    own = BlendSource(text, [[0, SEQ_LENGTH]])
    masked = 0
    for i in range(per_epoch(own)):
        sample = own[i]
        assert torch_equal(sample["loss_mask"] == 0, sample["tokens"] == 50)
        masked += int((sample["loss_mask"] == 0).sum())
    assert masked == 1


def torch_equal(a: object, b: object) -> bool:
    import torch

    assert isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return torch.equal(a, b)
