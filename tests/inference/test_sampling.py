"""The sampling rules against plain formulas, one row at a time in Python."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config.schema import InferenceConfig
from recipes.inference.sampling import choose_next, keep_top_k, keep_top_p, penalize_repetition

rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40)


def softmax(scores: list[float]) -> list[float]:
    largest = max(scores)
    exps = [math.exp(score - largest) for score in scores]
    return [value / sum(exps) for value in exps]


@given(rows, st.integers(0, 45))
def test_top_k_keeps_the_k_highest_and_their_ties(scores: list[float], k: int) -> None:
    kept = keep_top_k(torch.tensor([scores]), k)[0].isfinite().tolist()
    if k == 0 or k >= len(scores):
        assert all(kept)
        return
    threshold = sorted(scores, reverse=True)[k - 1]
    assert kept == [score >= threshold for score in scores]


# Among equal scores the sort is free, so there are none.
distinct_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40, unique=True)


@given(distinct_rows, st.floats(0, 1))
def test_top_p_keeps_the_smallest_head_that_passes_p(scores: list[float], p: float) -> None:
    tensor = torch.tensor([scores])
    kept = keep_top_p(tensor, p)[0].isfinite().tolist()
    probabilities = softmax(tensor[0].double().tolist())
    if p in (0.0, 1.0):
        assert all(kept)
        return
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    before = 0.0
    for place, index in enumerate(order):
        # Where the sum is within rounding of p either answer is right, for this token and all after it.
        if abs(before - p) < 1e-5:
            return
        assert kept[index] == (place == 0 or before <= p)
        before += probabilities[index]


@given(rows, st.floats(1, 3), st.lists(st.integers(0, 1), max_size=6))
def test_repetition_penalty_divides_once_however_often_a_token_came(
    scores: list[float], penalty: float, context: list[int]
) -> None:
    context = [*context, 0]
    got = penalize_repetition(torch.tensor([scores]), penalty, torch.tensor([context]))[0].tolist()
    expected = [score / penalty if index in context else score for index, score in enumerate(scores)]
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


@given(rows, st.floats(0.05, 5), st.integers(0, 5), st.floats(0, 1))
@settings(max_examples=50)
def test_greedy_ignores_everything_but_the_logits(
    scores: list[float], temperature: float, k: int, p: float
) -> None:
    chosen = choose_next(
        torch.tensor([scores]),
        torch.tensor([[0, 1]]),
        InferenceConfig(greedy=True, temperature=temperature, top_k=k, top_p=p, repetition_penalty=2.0),
        None,
    )
    assert scores[int(chosen)] == max(torch.tensor(scores).tolist())


@pytest.mark.parametrize(
    "inference",
    [
        InferenceConfig(temperature=0.7, top_p=0.0, repetition_penalty=1.0),
        InferenceConfig(temperature=1.5, top_k=3, top_p=0.0, repetition_penalty=1.3),
        InferenceConfig(temperature=1.0, top_k=0, top_p=0.8, repetition_penalty=1.2),
        InferenceConfig(temperature=2.0, top_k=5, top_p=0.7, repetition_penalty=1.0),
    ],
)
def test_frequencies_follow_the_formula(inference: InferenceConfig) -> None:
    """20,000 draws against temperature, penalty, top-k, top-p written out; chi-squared at 1 in 100,000."""
    logits = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
    scores = [value / inference.temperature for value in logits]
    scores = [s / inference.repetition_penalty if i in (0, 6) else s for i, s in enumerate(scores)]
    if inference.top_k:
        threshold = sorted(scores, reverse=True)[inference.top_k - 1]
        scores = [s if s >= threshold else -math.inf for s in scores]
    if inference.top_p:
        probabilities, before = softmax(scores), 0.0
        for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
            scores[index] = scores[index] if before <= inference.top_p else -math.inf
            before += probabilities[index]
    expected = softmax(scores)
    draws = 20_000
    generator = torch.Generator().manual_seed(3)
    chosen = choose_next(
        torch.tensor(logits).expand(draws, -1), torch.tensor([[0, 6]]).expand(draws, -1), inference, generator
    )
    counts = Counter(chosen.tolist())
    assert {index for index, p in enumerate(expected) if p == 0}.isdisjoint(counts)
    likely = [index for index, p in enumerate(expected) if p > 0]
    chi_squared = sum((counts[i] - draws * expected[i]) ** 2 / (draws * expected[i]) for i in likely)
    # Quantiles 1 - 1e-5 for 1 to 7 degrees of freedom.
    assert chi_squared < [19.5, 23.0, 25.9, 28.5, 30.9, 33.1, 35.3][len(likely) - 2]


def test_the_seed_decides() -> None:
    logits = torch.zeros(1000, 50)
    context = torch.zeros(1000, 1, dtype=torch.long)

    def draw(seed: int) -> list[int]:
        return choose_next(logits, context, InferenceConfig(), torch.Generator().manual_seed(seed)).tolist()

    assert draw(1) == draw(1) and draw(1) != draw(2)


def test_masked_tokens_never_win() -> None:
    logits = torch.full((2000, 6), -math.inf)
    logits[:, 2], logits[:, 4] = -30.0, -31.0
    chosen = choose_next(
        logits,
        torch.tensor([[2]]).expand(2000, -1),
        InferenceConfig(top_p=0.0),
        torch.Generator().manual_seed(1),
    )
    assert set(chosen.tolist()) == {2, 4}
