"""What an engine promises, for tests on the CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Event, Request, Sampling
from recipes.inference.text_generator import TextGenerator

LENGTH = 60
VARIED = (
    Sampling(greedy=True),
    Sampling(temperature=0.8, seed=3),
    Sampling(top_k=20, seed=4),
    Sampling(top_p=0.8, repetition_penalty=1.3, seed=5),
    Sampling(min_p=0.05, logit_bias={7: 2.0, 9: -5.0}, seed=6),
    Sampling(greedy=True, repetition_penalty=1.5, repetition_penalty_style="ctrl"),
    Sampling(temperature=2.0, top_k=50, top_p=0.9, seed=7),
)


def varied_requests(vocab_size: int) -> list[Request]:
    """Prompts of 1 to 23 tokens, short and long continuations, every way of choosing."""
    generator = torch.Generator().manual_seed(5)
    requests = []
    for number in range(14):
        length = 1 + (number * 7) % 23
        prompt = torch.randint(vocab_size, (length,), generator=generator).tolist()
        new = 5 + (number * 11) % 30
        requests.append(
            Request(tuple(prompt), new, number % 4, VARIED[number % len(VARIED)], frozenset(range(2, 10)))
        )
    return requests


def results(model: TextGenerator, requests: Sequence[Request], slots: int) -> list[Event]:
    return list(in_order(Engine(model, slots=slots, max_length=LENGTH), requests))


def assert_batches_change_nothing(model: TextGenerator, tolerance: float) -> None:
    """Every request's tokens and log-probabilities are the same alone and in batches of any size."""
    requests = [replace(request, logprobs=True) for request in varied_requests(model.vocab_size)]
    alone = [results(model, [request], 1)[0] for request in requests]
    assert len({event.token_ids for event in alone}) == len(alone), "the comparison would say nothing"
    assert {event.finished for event in alone} == {"stop", "length"}
    for slots in (2, 5, len(requests)):
        for first, event in zip(alone, results(model, requests, slots), strict=True):
            assert event.token_ids == first.token_ids and event.finished == first.finished
            assert event.logprobs is not None and first.logprobs is not None
            distance = torch.tensor(event.logprobs) - torch.tensor(first.logprobs)
            assert distance.abs().max() <= tolerance
