"""PUT /generate, beside what NeMo's own generate() gave for the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.nemo_files import MAIN
from tests.support.server import Server

EXPECTED = json.loads((MAIN / "nemo_generate.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(MAIN / "model.nemo") as running:
        yield running


def put(server: Server, **body: Any) -> httpx.Response:
    return httpx.put(f"{server.url}/generate", json=body, timeout=240)


@pytest.mark.parametrize("case", ["greedy", "greedy_rep1.2", "greedy_min_end"])
def test_greedy_as_nemo(server: Server, case: str) -> None:
    expected, length = EXPECTED[case]["output"], EXPECTED[case]["length_params"]
    sampling = EXPECTED[case]["sampling_params"]
    answer = put(
        server,
        sentences=EXPECTED[case]["prompts"],
        tokens_to_generate=length["max_length"],
        min_tokens_to_generate=length["min_length"],
        greedy=True,
        **{name: sampling[name] for name in ("add_BOS", "repetition_penalty", "end_strings", "all_probs")},
    ).json()
    for name in ("sentences", "tokens", "token_ids", "offsets", "logprob"):
        assert answer[name] == expected[name], name


def test_scores(server: Server) -> None:
    """Over the real vocabulary. NeMo counts padding too, except after the end of the shortest sentence."""
    expected = EXPECTED["compute_logprob"]["output"]
    answer = put(server, sentences=EXPECTED["compute_logprob"]["prompts"], compute_logprob=True).json()
    for name in ("sentences", "tokens", "token_ids"):
        assert answer[name] == expected[name], name
    assert [len(scores) for scores in answer["logprob"]] == [len(ids) - 1 for ids in answer["token_ids"]]
    shortest = min(map(len, answer["token_ids"]))
    assert answer["logprob"][0][shortest:] == pytest.approx(expected["logprob"][0][shortest:-1], abs=1e-4)
    assert answer["offsets"][0] == expected["offsets"][0]
    options = {"compute_logprob": True, "add_BOS": True, "tokens_to_generate": 0}
    with_bos = put(server, sentences=["India"], **options).json()
    assert with_bos["tokens"][0][0] == "<s>"
    assert len(with_bos["logprob"][0]) == len(with_bos["tokens"][0]) - 1


def test_seeds_and_end_strings(server: Server) -> None:
    def sentences(**body: Any) -> list[str]:
        answer = put(server, sentences=["India", "a"], tokens_to_generate=20, **body)
        assert answer.status_code == 200
        return answer.json()["sentences"]

    drawn = sentences(random_seed=1)
    assert drawn == sentences(random_seed=1) != sentences(random_seed=2)
    assert sentences() != sentences()
    end = drawn[0][12:14]
    ended = sentences(random_seed=1, end_strings=[end])[0]
    assert ended == drawn[0][: len(ended)] and ended.endswith(end)  # As in NeMo the end string is kept.


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "sentences: Field required"),
        ({"sentences": []}, "sentences: List should have at least 1 item"),
        ({"sentences": ["x"] * 129}, "asks for 129 completions; this server's limit is 128"),
        ({"sentences": ["x"], "tokens_to_generate": 0}, "tokens_to_generate: 0 goes with compute_logprob"),
        ({"sentences": ["x"], "tokens_to_generate": -1}, "tokens_to_generate: Input should be greater"),
        ({"sentences": ["x"], "tokens_to_generate": 64}, "this server's limit for both together is 64"),
        ({"sentences": ["x"], "temperature": 0}, "temperature: Input should be"),
        (
            {"sentences": ["x"], "tokens_to_generate": 1, "min_tokens_to_generate": 2},
            "min_tokens_to_generate: ",
        ),
        ({"sentences": ["x"], "all_probs": True}, "all_probs: answers of the whole vocabulary's size"),
        ({"sentences": [""], "tokens_to_generate": 1}, "a prompt is empty"),
        ({"sentences": ["x"], "task_ids": [1]}, "unknown fields: task_ids"),
    ],
)
def test_refused(server: Server, body: dict[str, Any], message: str) -> None:
    answer = put(server, **body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
