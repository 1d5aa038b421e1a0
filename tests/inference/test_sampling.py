"""The sampling rules against plain formulas, one row at a time in Python."""

from __future__ import annotations

import math
from collections import Counter
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.inference.noise import gumbel_noise
from recipes.inference.requests import Request, Sampling
from recipes.inference.rows import Needs, Rows, needs_of
from recipes.inference.sampling import choose, keep_likeliest, likeliest

rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40)


def softmax(scores: list[float]) -> list[float]:
    largest = max(scores)
    exps = [math.exp(score - largest) for score in scores]
    return [value / sum(exps) for value in exps]


def chosen(logits: list[float], requests: list[Request], *, exact_shapes: bool = True) -> list[int]:
    """The first new token of each request, all from the same logits."""
    state = Rows(len(requests), len(logits), torch.device("cpu"))
    for slot, request in enumerate(requests):
        state.set(slot, request)
    needs = reduce(Needs.__or__, (needs_of(request, len(logits)) for request in requests))
    repeated = torch.tensor([logits] * len(requests))
    everything = slice(0, len(requests))
    return choose(repeated, state, everything, needs, exact_shapes=exact_shapes).ids.tolist()


def drawn(logits: list[float], request: Request, draws: int, *, exact_shapes: bool) -> list[int]:
    """The first new token with seeds from 0 on."""
    state = Rows(draws, len(logits), torch.device("cpu"))
    state.set(0, request)
    for name, value in vars(state).items():
        if isinstance(value, torch.Tensor) and not name.startswith("_"):
            value.copy_(value[:1].clone().expand_as(value))
    state.seed.copy_(torch.arange(draws))
    repeated = torch.tensor(logits).expand(draws, -1)
    needs = needs_of(request, len(logits))
    return choose(repeated, state, slice(0, draws), needs, exact_shapes=exact_shapes).ids.tolist()


def kept(scores: list[float], *, k: int = 0, p: float = 0.0, min_p: float = 0.0) -> list[bool]:
    """Which tokens can be drawn, whether or not shapes may depend on numbers."""
    request = Request((0,), 1, sampling=Sampling(top_k=k, top_p=p, min_p=min_p))
    state = Rows(1, len(scores), torch.device("cpu"))
    state.set(0, request)
    found = [
        keep_likeliest(
            torch.tensor([scores]),
            state.top_k[:, None],
            state.top_p[:, None],
            state.log_min_p[:, None],
            needs_of(request, len(scores)),
            exact_shapes=exact_shapes,
        )[0]
        for exact_shapes in (True, False)
    ]
    assert torch.equal(*found)
    return found[0].isfinite().tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(st.lists(st.sampled_from([-math.inf, -2.0, 0.5, 3.0, math.nan]), min_size=1, max_size=40))
def test_the_first_of_the_likeliest_is_taken(dtype: torch.dtype, scores: list[float]) -> None:
    found = likeliest(torch.tensor([scores, scores[::-1]], dtype=dtype)).tolist()
    for place, row in zip(found, (scores, scores[::-1]), strict=True):
        highest = [math.isnan(score) for score in row]
        if not any(highest):
            highest = [score == max(row) for score in row]
        assert place == highest.index(True)


@given(rows, st.integers(0, 45))
def test_top_k_keeps_the_k_highest_and_their_ties(scores: list[float], k: int) -> None:
    found = kept(scores, k=k)
    if k == 0 or k >= len(scores):
        assert all(found)
        return
    threshold = sorted(scores, reverse=True)[k - 1]
    assert found == [score >= threshold for score in scores]


# Ties with the last one are kept, so there are none here.
distinct_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40, unique=True)


@given(distinct_rows, st.floats(0, 1))
def test_top_p_keeps_the_smallest_head_that_passes_p(scores: list[float], p: float) -> None:
    found = kept(scores, p=p)
    probabilities = softmax(scores)
    if p in (0.0, 1.0):
        assert all(found)
        return
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    before = 0.0
    for place, index in enumerate(order):
        # Where the sum is within rounding of p either answer is right, for this token and all after it.
        if abs(before - p) < 1e-5:
            return
        assert found[index] == (place == 0 or before <= p)
        before += probabilities[index]


@given(rows, st.floats(0, 1))
def test_min_p_is_a_share_of_the_likeliest(scores: list[float], min_p: float) -> None:
    found, probabilities = kept(scores, min_p=min_p), softmax(scores)
    for is_kept, probability in zip(found, probabilities, strict=True):
        # Within rounding of the limit either answer is right.
        if abs(probability / max(probabilities) - min_p) > 1e-5:
            assert is_kept == (probability / max(probabilities) > min_p)


def test_top_p_looks_as_far_as_it_has_to() -> None:
    """The likeliest 256 of a flat distribution hold a tenth of what is asked for."""
    scores = (torch.randn(3000, generator=torch.Generator().manual_seed(1)) * 0.01).tolist()
    order = sorted(range(3000), key=lambda index: -scores[index])
    assert 2650 < sum(kept(scores, p=0.9)) < 2750
    assert sum(kept(scores, p=0.9, k=600)) == pytest.approx(540, abs=3)
    found = kept(scores, p=0.9)
    assert [found[index] for index in order] == sorted(found, reverse=True)


def test_top_p_keeps_ties_with_the_last_one() -> None:
    assert kept([0.0] * 10, p=0.35) == [True] * 10
    assert kept([2.0, 1.0, 1.0, -9.0], p=0.7) == [True, True, True, False]


@given(rows, st.floats(0.05, 5), st.integers(0, 5), st.floats(0, 1))
@settings(max_examples=50)
def test_greedy_ignores_everything_but_the_logits(
    scores: list[float], temperature: float, k: int, p: float
) -> None:
    sampling = Sampling(greedy=True, temperature=temperature, top_k=k, top_p=p, repetition_penalty=2.0)
    drawn = Request((0, 1), 1, sampling=Sampling(top_k=2, repetition_penalty=1.5))
    alone = chosen(scores, [Request((0, 1), 1, sampling=sampling)])
    beside = chosen(scores, [drawn, Request((0, 1), 1, sampling=sampling)])
    assert scores[alone[0]] == max(scores) and beside[1] == alone[0]


def test_the_usual_penalty_is_of_greedy_choices_too() -> None:
    nemo, ctrl = (
        Request(
            (0, 0, 2), 1, sampling=Sampling(greedy=True, repetition_penalty=2.0, repetition_penalty_style=s)
        )
        for s in ("nemo", "ctrl")
    )
    assert chosen([3.0, 2.0, 1.0], [nemo, ctrl]) == [0, 1]
    assert chosen([-1.0, -1.5, -3.0], [nemo, ctrl]) == [0, 1]


def test_biases_forbid_and_prefer() -> None:
    plain = Request((0,), 1, sampling=Sampling(greedy=True))
    forbidden = Request((0,), 1, sampling=Sampling(greedy=True, logit_bias={0: -math.inf}))
    preferred = Request((0,), 1, sampling=Sampling(greedy=True, logit_bias={2: 5.0}))
    assert chosen([3.0, 2.0, 1.0], [plain, forbidden, preferred, plain]) == [0, 1, 2, 0]


def test_end_tokens_are_forbidden_before_the_least_number() -> None:
    ends = frozenset({0, 2})
    requests = [
        Request((1,), 9, 1, Sampling(greedy=True), ends),
        Request((1,), 9, 0, Sampling(greedy=True), ends),
        Request((1,), 9, 1, Sampling(greedy=True)),
    ]
    assert chosen([3.0, 1.0, 2.0, 0.0], requests) == [1, 0, 0]


@pytest.mark.parametrize(
    "inference",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.5, top_k=3, repetition_penalty=1.3),
        Sampling(top_p=0.8, repetition_penalty=1.2),
        Sampling(top_p=0.9, repetition_penalty=2.0, repetition_penalty_style="ctrl"),
        Sampling(temperature=2.0, top_k=5, top_p=0.7),
        Sampling(min_p=0.2, logit_bias={3: 1.0, 0: -2.0}),
    ],
)
@pytest.mark.parametrize("exact_shapes", [True, False])
def test_frequencies_follow_the_formula(inference: Sampling, exact_shapes: bool) -> None:
    """20,000 draws against the rules written out; chi-squared at 1 in 100,000."""
    logits = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
    biased = [value + inference.logit_bias.get(i, 0.0) for i, value in enumerate(logits)]
    scores = [value / inference.temperature for value in biased]
    penalty = inference.repetition_penalty
    for i in (0, 6):
        multiplied = scores[i] < 0 and inference.repetition_penalty_style == "ctrl"
        scores[i] = scores[i] * penalty if multiplied else scores[i] / penalty
    if inference.top_k:
        threshold = sorted(scores, reverse=True)[inference.top_k - 1]
        scores = [s if s >= threshold else -math.inf for s in scores]
    if inference.top_p:
        probabilities, before = softmax(scores), 0.0
        for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
            scores[index] = scores[index] if before <= inference.top_p else -math.inf
            before += probabilities[index]
    if inference.min_p:
        probabilities = softmax(scores)
        least = inference.min_p * max(probabilities)
        scores = [s if p >= least else -math.inf for s, p in zip(scores, probabilities, strict=True)]
    expected = softmax(scores)
    draws = 20_000
    request = Request((0, 6), 1, sampling=inference)
    counts = Counter(drawn(logits, request, draws, exact_shapes=exact_shapes))
    assert {index for index, p in enumerate(expected) if p == 0}.isdisjoint(counts)
    likely = [index for index, p in enumerate(expected) if p > 0]
    chi_squared = sum((counts[i] - draws * expected[i]) ** 2 / (draws * expected[i]) for i in likely)
    # Quantiles 1 - 1e-5 for 1 to 7 degrees of freedom.
    assert chi_squared < [19.5, 23.0, 25.9, 28.5, 30.9, 33.1, 35.3][len(likely) - 2]


def test_masked_tokens_never_win() -> None:
    logits = [-math.inf] * 6
    logits[2], logits[4] = -30.0, -31.0
    request = Request((2,), 1, sampling=Sampling(repetition_penalty=1.2))
    assert set(drawn(logits, request, 2000, exact_shapes=True)) == {2, 4}


def test_what_is_drawn_depends_on_seed_and_position_alone() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)).tolist()
    requests = [
        Request((0,) * length, 1, sampling=Sampling(seed=seed)) for seed in (1, 2) for length in (1, 5)
    ]
    together = chosen(logits, requests)
    assert together == [chosen(logits, [request])[0] for request in requests]
    # Among others with other needs, too.
    other = Request((1, 2), 1, sampling=Sampling(top_k=7, min_p=0.1, repetition_penalty=1.4))
    assert chosen(logits, [other, *requests])[1:] == together


def test_noise_is_gumbels_and_independent() -> None:
    seeds = torch.arange(400)
    noise = gumbel_noise(seeds, torch.full_like(seeds, 7), 500).double()
    assert noise.isfinite().all()
    assert noise.mean() == pytest.approx(0.577216, abs=0.012)  # Euler's constant
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)
    neighbours = [
        noise[:, 1:] * noise[:, :-1],
        noise[1:] * noise[:-1],
        noise * gumbel_noise(seeds, torch.full_like(seeds, 8), 500),
    ]
    for products in neighbours:
        assert products.mean() == pytest.approx(0.577216**2, abs=0.02)
    assert len(noise.unique()) > 0.99 * noise.numel()
