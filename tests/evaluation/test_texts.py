"""Bits per byte of texts: those of a plain loop, and those of validation during training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from recipes.config.evaluation_schema import TextsConfig
from recipes.errors import UserError
from recipes.evaluation.run import evaluate
from recipes.evaluation.tasks import load_tasks
from recipes.evaluation.texts import Reading, sliding, training_order, windows_of_all
from recipes.report.evaluation_result import EvaluationResult, read_results
from recipes.report.evaluation_table import render
from tests.support.cases import evaluate_case
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case
from tests.support.tiny_text_model import LlamaTextModel, random_llama, train_tokenizer

TOKENIZER = train_tokenizer()
SEED = 1
TEXTS = ["Ravi went to the market and bought rice. " * 8, "भारत की राजधानी नई दिल्ली है।", "Short."]


def text_model() -> LlamaTextModel:
    return LlamaTextModel(random_llama(len(TOKENIZER), max_length=64), TOKENIZER)


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    return str(path)


def bits(result: EvaluationResult, name: str) -> float:
    return result.tasks[f"bits_per_byte_{name}"].scores["bits_per_byte,none"].value


def measured(tmp_path: Path, **settings: int | bool) -> float:
    texts = TextsConfig(files={"x": write(tmp_path / "x.jsonl", TEXTS)}, **settings)  # type: ignore[arg-type]
    loaded = load_tasks(["bits_per_byte_x"], texts=texts, seed=SEED)
    result = evaluate(text_model(), ["bits_per_byte_x"], loaded=loaded, texts=texts)
    assert result.tasks["bits_per_byte_x"].n == len(TEXTS)
    return bits(result, "x")


@torch.no_grad()
def nats(model: LlamaTextModel, ids: list[int], first: int) -> float:
    """Of the tokens from the one at `first` on, in float64."""
    log_probabilities = model.llama.double()(torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(float(log_probabilities[i - 1, ids[i]]) for i in range(first, len(ids)))


def text_bytes() -> int:
    return sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (16, 16), (16, 5), (32, 1)])
def test_each_text_by_itself(window: int, stride: int, tmp_path: Path) -> None:
    model, total = text_model(), 0.0
    for text in TEXTS:
        ids = [TOKENIZER.bos_token_id, *model.encode(text)]
        begin, done = 0, 1
        while done < len(ids):
            end = min(begin + window + 1, len(ids))
            total += nats(model, ids[begin:end], done - begin)
            begin, done = begin + stride, end
    expected = total / text_bytes() / math.log(2)
    assert measured(tmp_path, packed=False, window=window, stride=stride) == pytest.approx(expected, rel=1e-5)


def test_packed_texts_follow_one_another(tmp_path: Path) -> None:
    model = text_model()
    order = training_order(len(TEXTS), SEED)
    assert order != sorted(order)
    ids = [token for i in order for token in [*model.encode(TEXTS[i]), TOKENIZER.eos_token_id]]
    total = sum(nats(model, ids[i : i + 33], 1) for i in range(0, len(ids) - 1, 32))
    expected = total * len(ids) / (len(ids) - 1) / text_bytes() / math.log(2)
    assert measured(tmp_path, window=32) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", range(2, 40))
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 1), (1, 1)])
def test_every_token_but_the_first_is_scored_once(length: int, window: int, stride: int) -> None:
    reading = Reading(window, stride, packed=False)
    windows = list(sliding(list(range(length)), reading))
    assert [token for _, scored in windows for token in scored] == list(range(1, length))
    for context, scored in windows:
        assert len(context) + len(scored) - 1 <= window
        assert [*context, *scored] == list(range(context[0], scored[-1] + 1))
        assert len(context) > window - stride or context[0] == 0


def test_shares_of_windows_add_up_to_the_tokens_of_each_text() -> None:
    texts = [list(range(5)), [], list(range(17)), [1], list(range(9))]
    tokens = [0.0] * len(texts)
    for window in windows_of_all(texts, Reading(7, 4, packed=True)):
        for text, share in window.shares.items():
            tokens[text] += share * len(window.scored)
    # The first token of all has no score of its own.
    assert tokens == pytest.approx([(len(ids) - (i == 0)) * 32 / 31 for i, ids in enumerate(texts)])


def test_what_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^texts\.window=65: the model reads 64 tokens at once"):
        measured(tmp_path, window=65)
    with pytest.raises(UserError, match=r"^texts\.stride=65 would leave tokens out"):
        measured(tmp_path, stride=65)


@pytest.mark.parametrize("model", ["tiny", "tiny_nano_hindi"])
def test_it_is_the_figure_of_training_s_validation(
    model: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        trainer__max_steps="3",
        trainer__limit_val_batches="null",
        # No rows without a piece: training has them in its softmax, until it has learnt not to.
        model__vocab_size="800",
        model__make_vocab_size_divisible_by="32",
    )
    (outcome,) = gloo_pool.run(1, run_case, [*settings, f"model={model}", "seed=77"])
    assert outcome.code == 0, outcome.message
    corpus = tiny_data.directory / "corpus"
    evaluated = gloo_pool.run(
        1,
        evaluate_case,
        [
            f"gpt_model_file={tmp_path / 'tiny' / 'model.nemo'}",
            "eval=bits_per_byte",
            f"texts.files={{en:{corpus / 'valid.en.jsonl'},hi:{corpus / 'valid.hi.jsonl'}}}",
            "texts.window=32",
            "seed=77",
            "num_threads=1",
        ],
    )
    assert evaluated == [0]
    result = read_results(tmp_path / "tiny" / "evaluation" / "model-bits_per_byte.json")
    for language in ("en", "hi"):
        expected = outcome.metrics[-1][f"valid.{language}.bits_per_byte"]
        assert bits(result, language) == pytest.approx(expected, rel=2e-6)
        assert f"| {expected:.4f} |" in render([result])
