"""Continuous batching against one request at a time, and every way in which a request can end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from recipes.errors import UserError
from recipes.inference.decode.decoder import WholeTextDecoder
from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Event, Request, Sampling
from recipes.inference.text_model import GPTTextModel
from tests.support.decode_cases import text_model, tiny_model
from tests.support.engine import process_groups
from tests.support.engine_cases import LENGTH, assert_batches_change_nothing, results, varied_requests
from tests.support.huggingface_models import CASES, LLAMA

GREEDY = Sampling(greedy=True)
FAMILIES = ("llama", "mistral", "gemma3", "nano_hindi", "param_moe", "glm4_moe")


@pytest.fixture(scope="module")
def model() -> Iterator[GPTTextModel]:
    with process_groups():
        yield text_model(tiny_model(LLAMA), LLAMA)


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_change_nothing(name: str) -> None:
    """The same tokens, their log-probabilities but for rounding: products of few rows add in other orders."""
    with process_groups():
        assert_batches_change_nothing(text_model(tiny_model(CASES[name]), CASES[name]), tolerance=2e-5)


def test_greedy_tokens_are_those_of_whole_passes(model: GPTTextModel) -> None:
    requests = [replace(request, sampling=GREEDY) for request in varied_requests(model.vocab_size)]
    for request, event in zip(requests, results(model, requests, 4), strict=True):
        ids = list(request.prompt)
        for count, token in enumerate(event.token_ids):
            logits = model.logits(torch.tensor([ids]))[0, -1]
            if count < request.min_new_tokens:
                logits[list(request.end_ids)] = -math.inf
            assert token == int(logits.argmax())
            ids.append(token)
        assert (event.finished == "stop") == (event.token_ids[-1] in request.end_ids)


def test_models_without_a_decode_path_write_the_same(
    model: GPTTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = varied_requests(model.vocab_size)
    lean = results(model, requests, 4)

    def whole_texts(self: GPTTextModel, slots: int, max_length: int) -> WholeTextDecoder:
        return WholeTextDecoder(self.logits_at, slots, max_length, self.device)

    monkeypatch.setattr(GPTTextModel, "decoder", whole_texts)
    assert results(model, requests, 4) == lean


def test_logprobs_are_the_models_own(model: GPTTextModel) -> None:
    prompt = (5, 17, 99, 3)
    sampling = Sampling(temperature=0.5, top_k=9, logit_bias={4: 1.0}, seed=8)
    asked = Request(
        prompt, 8, 0, sampling, logprobs=True, top_logprobs=3, full_logprob=True, prompt_logprobs=True
    )
    plain = replace(asked, logprobs=False, top_logprobs=0, full_logprob=False, prompt_logprobs=False)
    event, other = results(model, [asked, plain], 2)
    assert event.token_ids == other.token_ids
    assert other.logprobs is other.top is other.full is other.prompt_logprobs is None
    assert event.logprobs and event.top and event.full and event.prompt_logprobs
    text = torch.tensor([[*prompt, *event.token_ids]])
    expected = model.logits(text[:, :-1])[0].log_softmax(-1)
    chosen = expected.gather(1, text[0, 1:, None]).squeeze(1)
    everything = torch.tensor([*event.prompt_logprobs, *event.logprobs])
    torch.testing.assert_close(everything, chosen, rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.stack(event.full), expected[3:], rtol=0, atol=2e-5)
    assert event.prompt_top and other.prompt_top is None
    for top, row in zip(event.prompt_top + event.top, expected, strict=True):
        values, ids = row.topk(3)
        assert [token for token, _ in top] == ids.tolist()
        assert [value for _, value in top] == pytest.approx(values.tolist(), abs=2e-5)


def test_prompts_alone(model: GPTTextModel) -> None:
    """They wait for places and change nothing for others; one may have all tokens that are read."""
    scored = Request(tuple(range(LENGTH)), 0, prompt_logprobs=True, top_logprobs=2)
    requests = [Request((5, 6), 4, sampling=GREEDY), scored, scored, Request((7,), 4, sampling=GREEDY)]
    generated, first, second, last = results(model, requests, 1)
    for event, request in ((generated, requests[0]), (last, requests[3])):
        assert event.token_ids == results(model, [request], 1)[0].token_ids
    for event in (first, second):
        assert (event.token_ids, event.finished) == ((), "length")
        assert event.prompt_logprobs and len(event.prompt_logprobs) == LENGTH - 1
        assert event.prompt_top and [len(top) for top in event.prompt_top] == [2] * (LENGTH - 1)


def test_a_stop_rule_ends_its_request_alone(model: GPTTextModel) -> None:
    free = results(model, [Request((5, 6), 20, sampling=GREEDY), Request((7,), 20, sampling=GREEDY)], 2)
    asked: list[list[int]] = []

    def stop(ids: list[int]) -> bool:
        asked.append(list(ids))
        return len(ids) == 6

    requests = [Request((5, 6), 20, sampling=GREEDY, stop=stop), Request((7,), 20, sampling=GREEDY)]
    stopped, other = results(model, requests, 2)
    assert stopped.token_ids == free[0].token_ids[:6] and stopped.finished == "stop"
    assert other.token_ids == free[1].token_ids and other.finished == "length"
    assert asked == [list(free[0].token_ids[:count]) for count in range(1, 7)]


def test_a_finished_rows_place_goes_to_the_next(model: GPTTextModel) -> None:
    engine = Engine(model, slots=2, max_length=40)
    numbers = [engine.submit(Request((5, n), 3 + n, sampling=GREEDY)) for n in range(5)]
    assert numbers == [0, 1, 2, 3, 4] and (engine.waiting, engine.running) == (5, 0)
    finished: list[int] = []
    while not engine.idle:
        events = engine.step()
        finished += [event.request for event in events if event.finished]
        # Whoever has just ended has left a place, which the next step gives away.
        assert engine.running + len(finished) + engine.waiting == 5
        assert engine.running <= 2 and (engine.waiting == 0 or engine.running + len(events) >= 2)
    assert finished == [0, 1, 2, 3, 4] and engine.step() == []


def test_a_request_may_come_at_any_time(model: GPTTextModel) -> None:
    first, second = (Request((5, n), 12, sampling=Sampling(seed=n)) for n in (1, 2))
    alone = [results(model, [request], 1)[0].token_ids for request in (first, second)]
    engine = Engine(model, slots=3, max_length=40)
    engine.submit(first)
    events = engine.step() + engine.step()
    engine.submit(second)
    while not engine.idle:
        events += engine.step()
    ids: dict[int, tuple[int, ...]] = {0: (), 1: ()}
    for event in events:
        ids[event.request] += event.token_ids
    assert [ids[0], ids[1]] == alone


def test_cancelling(model: GPTTextModel) -> None:
    requests = [Request((5, n), 12, sampling=GREEDY) for n in range(3)]
    undisturbed = results(model, [requests[1]], 1)[0]
    engine = Engine(model, slots=2, max_length=40)
    for request in requests:
        engine.submit(request)
    engine.step()
    engine.cancel(0)  # In a row.
    engine.cancel(2)  # Waiting.
    engine.cancel(0)
    engine.cancel(99)
    assert (engine.waiting, engine.running) == (0, 1)
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
    ends = [(event.request, event.finished) for event in events if event.finished]
    assert ends == [(0, "cancelled"), (2, "cancelled"), (1, "length")]
    assert (
        sum((event.token_ids for event in events if event.request == 1), ())
        == undisturbed.token_ids[
            -len([event for event in events if event.request == 1 and event.token_ids]) :
        ]
    )


def test_weights_may_change_between_engines(model: GPTTextModel) -> None:
    """They are read where they are: the same parameters after an optimizer step give another text."""
    request = Request((5, 6, 7), 20, sampling=GREEDY)
    before = results(model, [request], 1)[0].token_ids
    head = model.gpt.output_layer.weight.data
    kept = head.clone()
    head.copy_(head.flip(0))
    after = results(model, [request], 1)[0].token_ids
    head.copy_(kept)
    assert before != after and before == results(model, [request], 1)[0].token_ids


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), 1), "a prompt is empty"),
        (Request((5,) * 40, 1), "a prompt has 40 tokens; the model reads 40"),
        (Request((5,) * 30, 11), "ask for at most 10"),
        (Request((5,), -1), "max_new_tokens=-1"),
        (Request((5,), 1, end_ids=frozenset(range(9))), "9 end tokens"),
        (Request((5,), 1, top_logprobs=251), "top_logprobs=251"),
        (Request((5,), 1, sampling=Sampling(temperature=0.0)), "temperature=0.0"),
        (Request((5,), 1, sampling=Sampling(top_p=1.1)), "top_p=1.1"),
        (Request((5,), 1, sampling=Sampling(seed=-1)), "seed=-1"),
        (Request((5,), 1, sampling=Sampling(logit_bias={250: 1.0})), "logit_bias of token 250"),
        (Request((5,), 1, sampling=Sampling(repetition_penalty_style="usual")), "style=usual"),
    ],
)
def test_what_does_not_fit_is_refused(model: GPTTextModel, request_: Request, message: str) -> None:
    engine = Engine(model, slots=1, max_length=40)
    with pytest.raises(UserError, match=message):
        engine.submit(request_)
    assert engine.idle


def test_a_refused_request_stops_none_of_the_others(model: GPTTextModel) -> None:
    engine = Engine(model, slots=1, max_length=40)
    with pytest.raises(UserError, match="empty"):
        list(in_order(engine, [Request((5,), 2, sampling=GREEDY), Request((), 2)]))
    assert engine.waiting == 1


def test_places_for_which_there_is_no_memory(model: GPTTextModel) -> None:
    """As for a server of long texts: what to lower, in one line."""
    with pytest.raises(UserError) as found:
        Engine(model, slots=10**13, max_length=64)
    said = "no memory for 10,000,000,000,000 texts of 64 tokens at a time: lower batch_size, or the tokens"
    assert str(found.value).startswith(said) and "\n" not in str(found.value)
