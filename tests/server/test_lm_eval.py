"""lm-eval asks a server what this project's own evaluation asks the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from recipes.checkpoint.convert import convert
from recipes.evaluation.lm import ParamLM, Scored
from recipes.inference.text_model import load_text_model
from tests.support.server import NAME, Server, long_model

PAIRS = [
    ("The farmer walks to", " the river"),
    ("The farmer walks to", " a"),
    ("किसान नदी", " के पास जाता है"),
    ("India", " is a country.\nIt has many rivers"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return long_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with Server(model) as running:
        yield running


def requests(kind: str, *arguments: tuple[object, ...]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.mark.parametrize("concurrent", [1, 3])
def test_local_completions(concurrent: int, model: Path, server: Server, tmp_path: Path) -> None:
    """The same log-probabilities, the same greedy choices, the same texts."""
    hf = tmp_path / "hf"
    convert(model, hf, "hf")
    theirs = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model=NAME,
        tokenizer=str(hf),
        tokenizer_backend="huggingface",
        add_bos_token=True,
        batch_size=2,
        num_concurrent=concurrent,
        max_retries=1,
    )
    ours = ParamLM(load_text_model(str(model), precision="fp32", num_threads=1))
    until = requests(
        "generate_until", *((text, {"until": ["e", "\n"], "max_gen_toks": 30}) for text, _ in PAIRS)
    )
    texts = theirs.generate_until(until, disable_tqdm=True)
    assert texts == ours.generate_until(until, disable_tqdm=True)
    asked = requests("loglikelihood", *PAIRS)
    check_same(theirs.loglikelihood(asked, disable_tqdm=True), ours.loglikelihood(asked, disable_tqdm=True))
    # What the model itself would go on with.
    start = ours.model.document_start_id
    contexts = [[start, *ours.tok_encode(text)] for text, _ in PAIRS]
    likeliest = [int(ours.model.logits(torch.tensor([ids]))[0, -1].argmax()) for ids in contexts]
    tokens = [
        ((text, ""), ids, [best]) for (text, _), ids, best in zip(PAIRS, contexts, likeliest, strict=True)
    ]
    expected = ours._loglikelihood_tokens(tokens)
    assert all(greedy for _, greedy in expected)
    check_same(theirs._loglikelihood_tokens(tokens), expected)


def check_same(answered: list[Scored], expected: list[Scored]) -> None:
    assert [greedy for _, greedy in answered] == [greedy for _, greedy in expected]
    assert [score for score, _ in answered] == pytest.approx([score for score, _ in expected], abs=1e-3)
