"""ParamLM's own behaviour: batches, shared inputs, stop strings, windows, refusals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from torch.nn.functional import one_hot

from recipes.errors import UserError
from recipes.evaluation.batching import token_batches
from recipes.evaluation.lm import ParamLM
from recipes.evaluation.response_cache import fingerprint
from recipes.inference.decode.decoder import Decoder
from recipes.inference.text_generator import TextGenerator
from tests.support.tiny_text_model import EOS, LlamaTextModel, random_llama, text_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer()
MAX_LENGTH = 64


def text_model(seed: int = 0, name: str = "tiny") -> LlamaTextModel:
    return LlamaTextModel(random_llama(len(TOKENIZER), seed, MAX_LENGTH), TOKENIZER, name)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=args, idx=i) for i, args in enumerate(arguments)]


@torch.no_grad()
def plain_score(model: LlamaTextModel, context: list[int], continuation: list[int]) -> float:
    """The textbook: one sequence, float64, a sum over positions."""
    logits = model.llama(torch.tensor([context + continuation])).logits[0].double()
    positions = range(len(context) - 1, len(context) + len(continuation) - 1)
    return sum(
        float(logits[p].log_softmax(-1)[token]) for p, token in zip(positions, continuation, strict=True)
    )


def test_every_batch_keeps_the_budget_and_every_answer_is_in_place() -> None:
    model = text_model()
    pairs = [("The cat sat", " on" * n) for n in (1, 9, 3, 20)] + [
        ("भारत की राजधानी", " नई दिल्ली"),
        ("", "Delhi is old"),
    ]
    answers = ParamLM(model, max_batch_tokens=60).loglikelihood(
        requests("loglikelihood", *pairs), disable_tqdm=True
    )
    assert all(rows * width <= 60 or rows == 1 for rows, width in model.batches)
    assert len(model.batches) > 1
    for (context, continuation), (score, _) in zip(pairs, answers, strict=True):
        ids = model.encode(context) or [TOKENIZER.bos_token_id]
        assert score == pytest.approx(plain_score(model, ids, model.encode(continuation)), abs=1e-4)


def test_padding_of_the_vocabulary_cannot_win() -> None:
    class Padded(LlamaTextModel):
        def logits(self, tokens: torch.Tensor) -> torch.Tensor:
            padding = torch.full((*tokens.shape, 40), 1e4)
            return torch.cat([super().logits(tokens), padding], dim=-1)

    model, padded = text_model(), Padded(text_model().llama, TOKENIZER)
    pair = requests("loglikelihood", ("The cat", " sat"))
    assert ParamLM(padded).loglikelihood(pair) == ParamLM(model).loglikelihood(pair)


def test_one_letter_answers_share_one_forward_row() -> None:
    model = text_model()
    pairs = [("Question: which?\nAnswer:", f" {letter}") for letter in "ABCD"] * 2
    ParamLM(model).loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    assert [batch[0] for batch in model.batches] == [1]


def test_token_batches_take_what_fits() -> None:
    assert list(token_batches(["aaaa", "bbb", "cc", "d"], len, 8)) == [["aaaa", "bbb"], ["cc", "d"]]
    assert list(token_batches(["aaaa", "b"], len, 1)) == [["aaaa"], ["b"]]


def test_token_batches_keep_the_budget_of_scored_positions() -> None:
    batches = list(token_batches(["aaaa", "bbb", "bb", "b"], len, 100, lambda item: item.count("b"), 4))
    assert batches == [["aaaa", "bbb"], ["bb", "b"]]
    assert list(token_batches(["bbb", "bb"], len, 100, lambda item: item.count("b"), 0)) == [["bbb"], ["bb"]]


def test_token_batches_do_not_pad_once_they_are_large_enough() -> None:
    items = ["a" * 10, "b" * 9, "c" * 5, "d" * 4, "e"]
    assert list(token_batches(items, len, 100, enough=20)) == [items[:2], items[2:]]
    assert list(token_batches(items, len, 100, enough=21)) == [items[:3], items[3:]]
    assert list(token_batches(items, len, 100, enough=50)) == [items]


def test_no_batch_asks_for_more_logits_than_its_budget() -> None:
    class Counted(LlamaTextModel):
        def __init__(self) -> None:
            super().__init__(text_model().llama, TOKENIZER)
            self.asked: list[int] = []

        def logits_at(self, tokens: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            self.asked.append(len(rows))
            return super().logits_at(tokens, rows, places)

    model = Counted()
    pairs = requests("loglikelihood", *[(f"The cat {n}", " on" * n) for n in (1, 2, 3, 4, 5)])
    budget = 6 * 4 * model.vocab_size
    limited = ParamLM(model, max_logits_bytes=budget).loglikelihood(pairs, disable_tqdm=True)
    assert max(model.asked) <= 6 and len(model.asked) > 1
    expected = ParamLM(text_model()).loglikelihood(pairs, disable_tqdm=True)
    for (score, greedy), (other, same) in zip(limited, expected, strict=True):
        assert score == pytest.approx(other, abs=1e-4) and greedy == same


def test_what_many_questions_begin_with_is_read_once() -> None:
    class Counted(LlamaTextModel):
        def __init__(self) -> None:
            super().__init__(text_model().llama, TOKENIZER)
            self.read: list[int] = []
            self.beginnings: set[tuple[int, ...]] = set()

        def logits_at(self, tokens: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            self.read.append(tokens.numel())
            return LlamaTextModel.logits(self, tokens)[rows, places]

        def logits_after(
            self,
            contexts: torch.Tensor,
            owners: torch.Tensor,
            continuations: torch.Tensor,
            rows: torch.Tensor,
            places: torch.Tensor,
        ) -> torch.Tensor:
            self.read.append(continuations.numel())
            self.beginnings.add(tuple(contexts[0].tolist()))
            after = torch.cat([contexts[owners], continuations], dim=1)
            first = LlamaTextModel.logits(self, contexts)[:, -1]
            return torch.cat([first, LlamaTextModel.logits(self, after)[rows, contexts.shape[1] + places]])

    model = Counted()
    shown = [7, 8, 9] * 12
    asked: list[Any] = []
    for n in range(30):
        question = [*shown, 20 + n, *[40 + n] * (n % 5)]
        asked += [(None, question, [100 + n + k] * (1 + k)) for k in range(3)]
    asked += [(None, [11 + n] * 3, [5]) for n in range(4)]
    answers = ParamLM(model)._loglikelihood_tokens(asked, disable_tqdm=True)
    assert model.beginnings == {tuple(shown)}
    assert sum(model.read) < sum(len(context) + len(rest) for _, context, rest in asked) / 4
    for (_, context, rest), (score, _) in zip(asked, answers, strict=True):
        assert score == pytest.approx(plain_score(model, context, rest), abs=1e-4)


def test_rolling_scores_every_token_once() -> None:
    model = text_model()
    text = "Ravi went to the market and bought rice. " * 6
    ids = model.encode(text)
    assert len(ids) > MAX_LENGTH
    first = plain_score(model, [TOKENIZER.bos_token_id], ids[:MAX_LENGTH])
    rest = ids[MAX_LENGTH:]
    window = ids[-(MAX_LENGTH + 1) :]
    assert len(rest) <= MAX_LENGTH
    second = plain_score(model, window[: -len(rest)], rest)
    (total, empty) = ParamLM(model).loglikelihood_rolling(
        requests("loglikelihood_rolling", (text,), ("",)), disable_tqdm=True
    )
    assert total == pytest.approx(first + second, abs=1e-3)
    assert empty == 0


def test_a_context_that_does_not_fit_loses_its_beginning() -> None:
    model = text_model()
    context, continuation = "Ravi went to the market. " * 9, " New Delhi"
    ids = model.encode(context.rstrip())
    target = model.encode(" " + continuation)  # the context's last space belongs to the continuation
    assert len(ids) > MAX_LENGTH
    ((score, _),) = ParamLM(model).loglikelihood(requests("loglikelihood", (context, continuation)))
    assert score == pytest.approx(
        plain_score(model, ids[-(MAX_LENGTH + 1 - len(target)) :], target), abs=1e-4
    )


def test_every_context_begins_as_training_documents_did() -> None:
    model = text_model()
    model.document_start_id = 1
    context, target = "The capital is", " Delhi"
    ids = [1, *model.encode(context)]
    ((score, _),) = ParamLM(model).loglikelihood(requests("loglikelihood", (context, target)))
    whole = model.encode(context + target)
    assert score == pytest.approx(plain_score(model, ids, whole[len(ids) - 1 :]), abs=1e-4)
    script = Script([TOKENIZER.eos_token_id])
    script.document_start_id = 7
    generate(script, "Q:", until=["\n"])
    assert script.prompts == [[7, *script.encode("Q:")]]


def test_a_continuation_that_does_not_fit_is_refused_before_anything_runs() -> None:
    model = text_model()
    with pytest.raises(UserError, match="64 tokens"):
        ParamLM(model).loglikelihood(
            requests("loglikelihood", ("a", " b"), ("a", " on" * 70)), disable_tqdm=True
        )
    assert not model.batches


class Script(TextGenerator):
    """Writes given ids, whatever the prompt; remembers the prompts and how much of its text was asked for."""

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__(
            text_tokenizer(TOKENIZER),
            torch.device("cpu"),
            name="script",
            max_sequence_length=512,
            document_start_id=None,
        )
        self.bos_id = None
        self.ids = list(ids)
        self.written = 0
        self.prompts: list[list[int]] = []

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decoder(self, slots: int, max_length: int) -> Decoder:
        return ScriptDecoder(self)


class ScriptDecoder:
    """Has one slot."""

    is_static = False

    def __init__(self, script: Script) -> None:
        self.script = script

    def read(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        self.script.prompts = [list(prompt) for prompt in prompts]
        self.script.written = 0
        return self.written()

    def step(self, tokens: torch.Tensor, positions: torch.Tensor, longest: int | None) -> torch.Tensor:
        return self.written()

    def move(self, source: int, target: int) -> None:
        raise NotImplementedError

    def written(self) -> torch.Tensor:
        token = self.script.ids[self.script.written]
        self.script.written += 1
        return one_hot(torch.tensor([token]), self.script.vocab_size).float()


def generate(model: Script, context: str = "Q:", **settings: Any) -> str:
    (text,) = ParamLM(model).generate_until(
        requests("generate_until", (context, settings)), disable_tqdm=True
    )
    return text


@pytest.mark.parametrize("until", ["\n\n", "दिल्ली", ". The", EOS])
def test_generation_ends_with_the_token_that_completes_a_stop_string(until: str) -> None:
    start = TOKENIZER.encode("राजधानी नई है" + "x" * 30, add_special_tokens=False)
    ending = TOKENIZER.encode(until if until != EOS else "</s>", add_special_tokens=False)
    if until == EOS:  # the literal text, written with ordinary tokens
        ending = [token for part in ("<", "/", "s", ">") for token in TOKENIZER.encode(part)]
    model = Script([*start, *ending, *start])
    text = generate(model, until=[] if until == EOS else [until])  # EOS always ends a text
    assert model.written == len(start) + len(ending)
    assert text == TOKENIZER.decode(start)


def test_generation_ends_with_eos_and_leaves_it_out() -> None:
    ids = TOKENIZER.encode("New Delhi", add_special_tokens=False)
    model = Script([*ids, 1, *ids])
    assert generate(model, until=["\n"]) == "New Delhi"
    assert model.written == len(ids) + 1


def test_generation_keeps_the_limits() -> None:
    model = Script([5] * 600)
    generate(model, "word " * 600, until=[], max_gen_toks=100)
    assert (model.written, len(model.prompts[0])) == (100, 412)
    generate(model, "")
    assert (model.written, model.prompts) == (256, [[1]])
    model.max_sequence_length = 64
    generate(model)
    assert model.written == 32
    model.max_sequence_length = 300
    generate(model, max_gen_toks=256)
    assert model.written == 256


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.8}, {"max_gen_toks": 512}])
def test_generation_that_cannot_be_had_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a task"):
        generate(Script([5]), **settings)


def test_two_models_cannot_share_a_response_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    pair = requests("loglikelihood", ("The cat", " sat"))
    first = CachingLM(ParamLM(text_model()), path).loglikelihood(pair)
    model = text_model()
    assert CachingLM(ParamLM(model), path).loglikelihood(pair) == first
    assert len(model.batches) == 1  # the fingerprint's; the answer came from the cache
    for other in (text_model(seed=1), text_model(name="another")):
        with pytest.raises(UserError, match="belongs to another model"):
            CachingLM(ParamLM(other), path)


def test_fingerprint_follows_the_weights() -> None:
    assert fingerprint(text_model()) == fingerprint(text_model()) != fingerprint(text_model(seed=1))
