"""Completions as users ask for them: end strings, streams, probabilities, biases, seeds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from recipes.config.schema import InferenceConfig
from recipes.errors import UserError
from recipes.inference.complete import complete, prompt_ids, requests_for, score, stream
from recipes.inference.engine import Engine, in_order
from recipes.inference.text_model import GPTTextModel, load_text_model
from recipes.inference.token_bias import token_biases
from tests.support.nemo_files import MAIN

PROMPTS = ["The farmer walks to", "किसान नदी", "A"]
GREEDY = InferenceConfig(greedy=True, tokens_to_generate=16, add_BOS=True, count_from="each")


@pytest.fixture(scope="module")
def model() -> GPTTextModel:
    return load_text_model(str(MAIN / "model.nemo"), precision="fp32", num_threads=1)


def completed(model: GPTTextModel, settings: InferenceConfig, prompt: str = PROMPTS[0]) -> str:
    (result,) = complete(model, [prompt], settings, batch_size=1, seed=1)
    return result.completion


def test_end_strings_end_within_and_over_tokens(model: GPTTextModel) -> None:
    whole = completed(model, GREEDY)
    for length in (1, 2, 5):
        for begin in range(len(whole) - length):
            text = whole[begin : begin + length]
            if "\ufffd" in text:  # A model's bytes that are no text have no form of their own.
                continue
            before = whole[: whole.find(text)]
            settings = replace(GREEDY, end_strings=["never", text, "<|endoftext|>"])
            assert completed(model, settings) == before + text
            assert completed(model, replace(settings, keep_end_strings=False)) == before


def test_the_first_end_string_counts_and_the_rest_is_not_made(model: GPTTextModel) -> None:
    (whole,) = complete(model, PROMPTS[:1], GREEDY, batch_size=1, seed=1)
    middle = whole.completion.index(";")
    settings = replace(GREEDY, end_strings=[whole.completion[-2:], ";"])
    (ended,) = complete(model, PROMPTS[:1], settings, batch_size=1, seed=1)
    assert ended.completion == whole.completion[: middle + 1]
    assert len(ended.token_ids) < len(whole.token_ids)
    assert ended.token_ids == whole.token_ids[: len(ended.token_ids)]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_parts_of_a_stream_are_the_completion(model: GPTTextModel, prompt: str, keep: bool) -> None:
    for seed in range(5):
        settings = InferenceConfig(
            tokens_to_generate=40, temperature=2.0, end_strings=["an", "ि"], keep_end_strings=keep
        )
        (whole,) = complete(model, [prompt], settings, batch_size=1, seed=seed)
        parts = list(stream(model, prompt_ids(model, prompt, settings), settings, seed=seed))
        assert "".join(parts) == whole.completion


def test_log_probabilities_of_everything(model: GPTTextModel) -> None:
    """Against one pass over the finished text, in float64; temperature, penalty and bias leave them alone."""
    settings = replace(
        GREEDY, greedy=False, temperature=0.7, logit_bias={5: 3.0}, all_probs=True, tokens_to_generate=6
    )
    for result in complete(model, PROMPTS, settings, batch_size=3, seed=4):
        logits = model.logits(torch.tensor([result.token_ids[:-1]]))[0].double()
        expected = logits.log_softmax(-1)
        assert result.full_logprob is not None and result.logprob is not None
        found = torch.tensor(result.full_logprob, dtype=torch.float64)
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
        chosen = expected.gather(1, torch.tensor(result.token_ids[1:])[:, None]).squeeze(1)
        assert result.logprob == pytest.approx(chosen.tolist(), abs=1e-4)
        assert len(result.tokens) == len(result.token_ids) == len(result.logprob) + 1
    (result,) = complete(model, PROMPTS[:1], settings, batch_size=1, seed=1)
    (scored,) = score(model, PROMPTS[:1], settings)
    assert scored.full_logprob is not None and result.logprob is not None
    count = len(scored.token_ids)
    assert scored.token_ids == result.token_ids[:count] and scored.tokens == result.tokens[:count]
    assert scored.offsets == result.offsets[:count]
    assert scored.logprob == pytest.approx(result.logprob[: count - 1], abs=1e-5)
    assert [row[token] for row, token in zip(scored.full_logprob, scored.token_ids[1:], strict=True)] == (
        pytest.approx(scored.logprob)
    )


def test_offsets_are_places_in_the_text(model: GPTTextModel) -> None:
    (result,) = complete(model, [PROMPTS[0]], GREEDY, batch_size=1, seed=1)
    text = result.prompt + result.completion
    assert result.offsets[0] == result.offsets[1] == 0 and result.offsets == sorted(result.offsets)
    spelled = zip(result.tokens, result.offsets, strict=True)
    plain = [(token.replace("▁", " "), begin) for token, begin in spelled if "<" not in token]
    assert len(plain) > 12
    for token, begin in plain[1:]:  # Before the first word the text has no space.
        assert text.startswith(token, begin), (token, begin)


def test_biases_by_id_by_spelling_and_by_text(model: GPTTextModel) -> None:
    tokenizer = model.tokenizer
    spelled = tokenizer.id_to_piece(269)
    assert spelled == "▁w"
    assert token_biases({269: 2, "alks": -1}, tokenizer) == {269: 2.0, 342: -1.0}
    only = replace(GREEDY, logit_bias={"▁w": 100}, tokens_to_generate=3)
    assert completed(model, only) == " w w w"
    never = replace(GREEDY, logit_bias={number: -100 for number in range(448) if number != 269})
    assert set(completed(model, never).split()) == {"w"}


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({448: 1.0}, "inference.logit_bias: id 448 does not exist; ids run to 447"),
        ({"The farmer": 1.0}, "'The farmer' is not one token but 5: 279 ('▁The'), "),
        ({269: 1.0, "▁w": 2.0}, "'▁w' is token 269, which is named twice"),
    ],
)
def test_biases_of_no_token(model: GPTTextModel, bias: dict[object, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        completed(model, replace(GREEDY, logit_bias=bias))
    assert message in str(caught.value)


def test_seeds_are_a_prompts_own(model: GPTTextModel) -> None:
    """Whatever stands beside it, before it, or how many are taken at once."""
    settings = replace(GREEDY, greedy=False, top_p=0.0)
    together = list(complete(model, PROMPTS, settings, batch_size=3, seed=9))
    others = list(complete(model, ["xyz", *reversed(PROMPTS), "B"], settings, batch_size=2, seed=9))
    for result in together:
        (alone,) = complete(model, [result.prompt], settings, batch_size=1, seed=9)
        (found,) = [other for other in others if other.prompt == result.prompt]
        assert result.token_ids == alone.token_ids == found.token_ids
    again = list(complete(model, [PROMPTS[0]] * 3, settings, batch_size=2, seed=9))
    assert len({tuple(result.token_ids) for result in again}) == 3


SAMPLED = {
    "temperature": {"temperature": 0.6},
    "top-k": {"top_k": 7},
    "top-p": {"top_p": 0.6},
    "min-p": {"min_p": 0.2},
    "NeMo's penalty": {"repetition_penalty": 1.6, "top_k": 20},
    "the usual penalty": {"repetition_penalty": 1.6, "repetition_penalty_style": "ctrl", "top_k": 20},
    "bias": {"logit_bias": {96: 2.0, 269: 4.0, 418: -3.0}, "top_k": 12},
    "all": {
        "temperature": 1.3,
        "repetition_penalty": 1.3,
        "logit_bias": {96: 1.0},
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.05,
    },
}
DRAWS = 1500


def probabilities(logits: list[float], context: set[int], settings: InferenceConfig) -> dict[int, float]:
    """The documented rules in their order, with Python's floats."""
    scores = [value + settings.logit_bias.get(token, 0.0) for token, value in enumerate(logits)]
    scores = [value / settings.temperature for value in scores]
    penalty = settings.repetition_penalty
    for token in context:
        is_multiplied = settings.repetition_penalty_style == "ctrl" and scores[token] < 0
        scores[token] *= penalty if is_multiplied else 1 / penalty
    order = sorted(range(len(scores)), key=lambda token: -scores[token])
    order = order[: settings.top_k or None]
    weights = {token: math.exp(scores[token] - scores[order[0]]) for token in order}
    total, kept, sum_before = sum(weights.values()), {}, 0.0
    for token, weight in weights.items():
        if settings.top_p and sum_before > settings.top_p:
            break
        kept[token] = weight
        sum_before += weight / total
    kept = {token: weight for token, weight in kept.items() if weight >= settings.min_p}
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


@pytest.mark.parametrize("name", SAMPLED)
def test_draws_follow_the_documented_distribution(model: GPTTextModel, name: str) -> None:
    """Second new tokens of many requests through the engine, by Pearson's test at 1 in 10,000."""
    plain = {"top_p": 0.0, "repetition_penalty": 1.0}
    settings = InferenceConfig(**(plain | SAMPLED[name]), tokens_to_generate=1, add_BOS=True)  # type: ignore[arg-type]
    row = prompt_ids(model, PROMPTS[0], settings)
    requests = requests_for(model, [row] * DRAWS, settings, batch_size=50, seed=3)
    engine = Engine(model, slots=50, max_length=len(row) + 1)
    counts = Counter(result.token_ids[0] for result in in_order(engine, requests))
    logits = model.logits(torch.tensor([row]))[0, -1].double().tolist()
    expected = probabilities(logits, set(row), settings)
    assert set(counts) <= set(expected)
    frequent = [token for token, share in expected.items() if share * DRAWS >= 5]
    pairs = [(counts[token], expected[token] * DRAWS) for token in frequent]
    rare = DRAWS - sum(share for _, share in pairs)
    if rare >= 5:
        pairs.append((DRAWS - sum(count for count, _ in pairs), rare))
    statistic = sum((count - share) ** 2 / share for count, share in pairs)
    assert len(pairs) > 3 and statistic < _critical(len(pairs) - 1), (statistic, pairs)


def _critical(freedom: int) -> float:
    """Chi-squared that chance exceeds once in 10,000 (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.719 * math.sqrt(part)) ** 3
