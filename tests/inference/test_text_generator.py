"""Generation with the key-value cache against whole forward passes, and its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recipes.config.schema import InferenceConfig
from recipes.errors import UserError
from recipes.inference.complete import complete, prompt_ids, score
from recipes.inference.decode.forward import LeanDecoder
from recipes.inference.text_model import GPTTextModel, load_text_model
from tests.support.nemo_files import MAIN

PROMPTS = ["The farmer walks to", "किसान नदी", "A", "The river and the farmer of the village walk"]
GREEDY = InferenceConfig(greedy=True, tokens_to_generate=12, add_BOS=True)
LONGEST = 64


@pytest.fixture(scope="module")
def model() -> GPTTextModel:
    return load_text_model(str(MAIN / "model.nemo"), precision="fp32", num_threads=1)


def whole_forward(model: GPTTextModel, ids: list[int], count: int) -> list[int]:
    """Greedy continuation without a cache, one prompt alone."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids


def test_cache_and_batching_change_nothing(model: GPTTextModel) -> None:
    rows = [prompt_ids(model, prompt, GREEDY) for prompt in PROMPTS]
    assert len({len(row) for row in rows}) == len(rows)
    end = max(map(len, rows)) + GREEDY.tokens_to_generate
    batched = list(complete(model, PROMPTS, GREEDY, batch_size=4, seed=1))
    for prompt, row, result in zip(PROMPTS, rows, batched, strict=True):
        expected = whole_forward(model, row, end - len(row))
        if model.eos_id in expected[len(row) :]:
            expected = expected[: expected.index(model.eos_id, len(row)) + 1]
        assert result.token_ids == expected and result.prompt == prompt
        (alone,) = complete(
            model, [prompt], replace(GREEDY, tokens_to_generate=end - len(row)), batch_size=1, seed=1
        )
        assert alone.token_ids == expected and alone.completion == result.completion


def test_several_batches_keep_the_order(model: GPTTextModel) -> None:
    prompts = PROMPTS * 2
    results = list(complete(model, prompts, GREEDY, batch_size=3, seed=1))
    assert [result.prompt for result in results] == prompts


def test_sampling_repeats_with_its_seed_only(model: GPTTextModel) -> None:
    settings = InferenceConfig(tokens_to_generate=20, temperature=1.5, top_p=0.0)

    def sample(seed: int) -> list[list[int]]:
        return [r.token_ids for r in complete(model, PROMPTS[:2], settings, batch_size=2, seed=seed)]

    assert sample(1) == sample(1) and sample(1) != sample(2)


def test_ids_that_the_tokenizer_lacks_never_come(model: GPTTextModel) -> None:
    """512 rows, 448 pieces: at a high temperature one token in eight would be padding."""
    settings = InferenceConfig(tokens_to_generate=50, temperature=50.0, top_p=0.0, repetition_penalty=1.0)
    results = list(complete(model, ["A"] * 20, settings, batch_size=20, seed=5))
    ids = [token for result in results for token in result.token_ids]
    assert len(ids) > 300 and max(ids) < model.vocab_size == 448 and len(set(ids)) > 150
    assert model.logits(torch.tensor([[1, 2, 3]])).shape[-1] == 448


def loud_eos(model: GPTTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """EOS has the highest logit everywhere."""
    head = LeanDecoder.head

    def louder(self: LeanDecoder, hidden: Tensor) -> Tensor:
        logits = head(self, hidden)
        logits[..., model.eos_id] = 1e4
        return logits

    monkeypatch.setattr(LeanDecoder, "head", louder)


def test_eos_ends_and_min_tokens_puts_it_off(model: GPTTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loud_eos(model, monkeypatch)
    for minimum in (0, 1, 5, 12):
        settings = replace(GREEDY, min_tokens_to_generate=minimum)
        for result in complete(model, PROMPTS[:2], settings, batch_size=1, seed=1):
            new = result.token_ids[len(prompt_ids(model, result.prompt, settings)) :]
            assert model.eos_id not in new[:minimum]
            assert len(new) == min(minimum + 1, 12) and (minimum == 12 or new[-1] == model.eos_id)


def test_end_strings_end_a_completion(model: GPTTextModel) -> None:
    (free,) = complete(model, PROMPTS[:1], GREEDY, batch_size=1, seed=1)
    stop_at = free.completion[5:8]
    settings = replace(GREEDY, end_strings=["<|endoftext|>", "never there", stop_at])
    (stopped,) = complete(model, PROMPTS[:1], settings, batch_size=1, seed=1)
    assert stopped.completion.endswith(stop_at) and len(stopped.completion) < len(free.completion)
    assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_counting_from_each_prompt(model: GPTTextModel) -> None:
    settings = replace(GREEDY, count_from="each")
    together = list(complete(model, PROMPTS, settings, batch_size=4, seed=1))
    for prompt, result in zip(PROMPTS, together, strict=True):
        assert [result] == list(complete(model, [prompt], settings, batch_size=1, seed=1))
        new = result.token_ids[len(prompt_ids(model, prompt, settings)) :]
        assert len(new) == 12 or new[-1] == model.eos_id


def test_a_prompts_draws_are_its_own(model: GPTTextModel) -> None:
    """Wherever it stands and whatever stands beside it; the same prompt again gets another text."""
    settings = InferenceConfig(tokens_to_generate=12, temperature=1.5, top_p=0.9, count_from="each")
    prompts = [*PROMPTS, PROMPTS[0]]
    together = list(complete(model, prompts, settings, batch_size=3, seed=7))
    for prompt, result in list(zip(prompts, together, strict=True))[:-1]:
        assert [result] == list(complete(model, [prompt], settings, batch_size=1, seed=7))
    assert together[0].token_ids != together[-1].token_ids


def test_generation_ends_at_the_models_length(model: GPTTextModel) -> None:
    settings = replace(GREEDY, tokens_to_generate=1000)
    (result,) = complete(model, ["A"], settings, batch_size=1, seed=1)
    assert len(result.token_ids) == LONGEST or result.token_ids[-1] == model.eos_id


def test_limits_are_user_errors(model: GPTTextModel) -> None:
    long = "village " * 200
    with pytest.raises(UserError, match=r"tokens; the model reads 64"):
        list(complete(model, [long], GREEDY, batch_size=1, seed=1))
    with pytest.raises(UserError, match=r"tokens; the model reads 64"):
        list(score(model, [long], GREEDY))
    with pytest.raises(UserError, match="a prompt is empty"):
        list(complete(model, [""], replace(GREEDY, add_BOS=False), batch_size=1, seed=1))
    with pytest.raises(UserError, match="nothing to score"):
        list(score(model, [""], GREEDY))


def test_an_empty_prompt_with_bos_is_a_free_sample(model: GPTTextModel) -> None:
    (result,) = complete(model, [""], GREEDY, batch_size=1, seed=1)
    assert result.token_ids[0] == model.bos_id and len(result.token_ids) > 1
