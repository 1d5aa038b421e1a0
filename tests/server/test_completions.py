"""/v1/completions of a real server, by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from recipes.server.completions import CompletionBody
from tests.support.nemo_files import MAIN
from tests.support.server import LENGTH, NAME, Server, long_model

PROMPTS = ["The farmer walks to", "किसान नदी", "India", "a", "भारत में 2024 में", "x y z", "\n", "The the the"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(long_model(tmp_path_factory.mktemp("model")), "batch_size=8") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return server.client()


def create(client: OpenAI, prompt: Any = PROMPTS[0], **options: Any) -> Any:
    return client.completions.create(model=NAME, prompt=prompt, **{"max_tokens": 12} | options)


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here, but 'tiny'"):
        client.models.retrieve("other")


def test_greedy_is_what_nemo_generated(server: Server, client: OpenAI) -> None:
    """The fixture's own greedy continuation, of text and of token ids."""
    expected = json.loads((MAIN / "nemo_generate.json").read_text())["greedy"]["output"]
    prompt, sentence, ids = PROMPTS[0], expected["sentences"][0], expected["token_ids"][0]
    answer = create(client, temperature=0, max_tokens=16)
    assert prompt + answer.choices[0].text == sentence
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(ids) - 16
    assert answer.usage.completion_tokens == 16 and answer.usage.total_tokens == len(ids)
    by_ids = create(client, ids[:-16], temperature=0, max_tokens=16)
    assert by_ids.choices[0].text == answer.choices[0].text


def test_several_prompts_in_order(client: OpenAI) -> None:
    together = create(client, PROMPTS, temperature=0).choices
    assert [choice.index for choice in together] == list(range(len(PROMPTS)))
    for prompt, choice in zip(PROMPTS, together, strict=True):
        assert create(client, prompt, temperature=0).choices[0].text == choice.text


def test_n(client: OpenAI) -> None:
    answer = create(client, PROMPTS[:2], n=3, seed=5)
    texts = [choice.text for choice in answer.choices]
    assert len(texts) == len(set(texts)) == 6
    alone = create(client, PROMPTS[1], n=3, seed=5)
    assert [choice.text for choice in alone.choices] == texts[3:]
    # Prompts count once.
    one = create(client, PROMPTS[:2], n=1).usage.prompt_tokens
    assert answer.usage.prompt_tokens == one
    assert answer.usage.completion_tokens == 6 * 12


def test_seed(client: OpenAI) -> None:
    texts = {create(client, seed=7).choices[0].text for _ in range(3)}
    assert len(texts) == 1
    assert create(client, seed=8).choices[0].text not in texts
    assert create(client, seed=-8).choices[0].text not in texts
    assert create(client).choices[0].text != create(client).choices[0].text


def chunks(client: OpenAI, **options: Any) -> list[Any]:
    return list(create(client, stream=True, stream_options={"include_usage": True}, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "logprobs": 3, "max_tokens": 200},
        {"seed": 3, "n": 2, "logprobs": 0, "max_tokens": 200},
        {"seed": 4, "prompt": PROMPTS[:3], "echo": True, "logprobs": 0},
        {"seed": 4, "logprobs": 1, "stop": ["c", "हि", "!;"], "max_tokens": 300},
        {"seed": 5, "echo": True},
        {"logprobs": 2, "echo": True, "logit_bias": {"2": 100}, "extra_body": {"min_tokens": 3}, "seed": 6},
    ],
)
def test_streaming_equals_non_streaming(client: OpenAI, options: dict[str, Any]) -> None:
    whole = create(client, **options)
    *parts, last = chunks(client, **options)
    assert last.choices == [] and last.usage == whole.usage
    assert all(part.usage is None and part.id == last.id for part in parts)
    for choice in whole.choices:
        mine = [part.choices[0] for part in parts if part.choices[0].index == choice.index]
        assert len(mine) > 1
        assert "".join(part.text for part in mine) == choice.text
        assert [part.finish_reason for part in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            joined = [entry for part in mine if part.logprobs for entry in getattr(part.logprobs, name) or []]
            assert joined == (getattr(choice.logprobs, name) or [] if choice.logprobs else [])


def test_logprobs(client: OpenAI) -> None:
    choice = create(client, temperature=0, logprobs=4, max_tokens=60).choices[0]
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 60
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert len(top) == 4
        assert max(top.values()) == top[token] == logprob < 0  # Greedy.
    # Where a token's text is whole, it stands at its offset.
    whole = [
        (offset, token)
        for offset, token in zip(found.text_offset, found.tokens, strict=True)
        if not token.startswith("<")
    ]
    assert len(whole) > 10
    assert all(choice.text[offset:].startswith(token) for offset, token in whole)
    # The drawn token is there even if it is not among the likeliest.
    drawn = create(client, seed=1, logprobs=8, max_tokens=60).choices[0].logprobs
    assert {len(top) for top in drawn.top_logprobs} == {8, 9}
    assert create(client, logprobs=0).choices[0].logprobs.top_logprobs is None
    assert create(client).choices[0].logprobs is None


def test_echo(client: OpenAI) -> None:
    plain = create(client, temperature=0, logprobs=0).choices[0]
    echoed = create(client, temperature=0, logprobs=0, echo=True).choices[0]
    assert echoed.text == PROMPTS[0] + plain.text
    new = len(plain.logprobs.tokens)
    assert echoed.logprobs.tokens[-new:] == plain.logprobs.tokens
    assert echoed.logprobs.token_logprobs[-new:] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-4)
    of_prompt = echoed.logprobs.token_logprobs[:-new]
    assert of_prompt[0] is None and all(logprob < 0 for logprob in of_prompt[1:])
    assert echoed.logprobs.text_offset[-new:] == [
        offset + len(PROMPTS[0]) for offset in plain.logprobs.text_offset
    ]


def test_the_likeliest_tokens_of_a_prompt(client: OpenAI) -> None:
    """At each place what the model would have gone on with: the end of this one is what it did go on with."""
    ids = json.loads((MAIN / "nemo_generate.json").read_text())["greedy"]["output"]["token_ids"][0]
    found = create(client, ids, temperature=0, logprobs=3, echo=True, max_tokens=1).choices[0].logprobs
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    for token, logprob, top in zip(
        found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True
    ):
        assert top[token] == logprob and len(top) in (3, 4)
    greedy = [
        logprob == max(top.values())
        for logprob, top in zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)
    ]
    assert len(greedy) == len(ids) and all(greedy[-17:]) and not all(greedy)


def test_a_prompt_is_scored_without_a_token(server: Server, client: OpenAI) -> None:
    """max_tokens 0, up to the model's last place, and beside texts that are generated."""
    scored = create(client, PROMPTS[:3], echo=True, logprobs=2, max_tokens=0, n=2)
    longer = create(client, PROMPTS[:3], echo=True, logprobs=2, max_tokens=1, n=2)
    assert scored.usage.completion_tokens == 0
    for one, other, prompt in zip(
        scored.choices, longer.choices, [text for text in PROMPTS[:3] for _ in range(2)], strict=True
    ):
        assert (one.text, one.finish_reason) == (prompt, "length")
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert getattr(one.logprobs, name) == getattr(other.logprobs, name)[:-1]
    streamed = list(create(client, echo=True, logprobs=2, max_tokens=0, stream=True))
    assert [part.choices[0].logprobs for part in streamed] == [scored.choices[0].logprobs]
    assert create(client, max_tokens=0).choices[0].text == ""
    assert create(client, [5] * LENGTH, max_tokens=0).usage.prompt_tokens == LENGTH
    server.wait_until_free()


def test_stop(client: OpenAI) -> None:
    whole = create(client, temperature=0, max_tokens=100).choices[0].text
    for stop in (whole[20:23], whole[7], [whole[30:34], whole[40:42]]):
        answer = create(client, temperature=0, max_tokens=100, stop=stop)
        first = min(whole.index(text) for text in ([stop] if isinstance(stop, str) else stop))
        assert answer.choices[0].text == whole[:first]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens < 100


def test_end_of_text_stops(client: OpenAI) -> None:
    """The end token has no text, but a log-probability: who drops the last one drops no other."""
    ended = create(client, logit_bias={"2": 100}, temperature=0, logprobs=0).choices[0]
    assert (ended.text, ended.finish_reason, ended.logprobs.tokens) == ("", "stop", ["</s>"])
    later = create(
        client, logit_bias={"2": 100}, temperature=0, logprobs=2, extra_body={"min_tokens": 5}
    ).choices[0]
    assert later.finish_reason == "stop" and len(later.logprobs.tokens) == 6
    assert later.logprobs.tokens[-1] == "</s>" and later.logprobs.text_offset[-1] == len(later.text)
    assert later.logprobs.top_logprobs[-1]["</s>"] == later.logprobs.token_logprobs[-1]


def test_logit_bias_and_extensions(client: OpenAI) -> None:
    forced = create(client, logit_bias={"262": 100}, temperature=0, max_tokens=3, logprobs=0).choices[0]
    assert len(set(forced.logprobs.tokens)) == 1
    greedy = create(client, temperature=0).choices[0].text
    for narrow in ({"top_k": 1}, {"min_p": 1.0}):
        assert create(client, extra_body=narrow).choices[0].text == greedy
    assert create(client, top_p=1e-9).choices[0].text == greedy
    different = [
        len(
            set(
                create(client, temperature=0, max_tokens=60, logprobs=0, extra_body=penalty)
                .choices[0]
                .logprobs.tokens
            )
        )
        for penalty in ({}, {"repetition_penalty": 2.0})
    ]
    assert different[0] < different[1]


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"prompt": []}, "prompt: must be a text, token ids, or a list of either", "prompt"),
    ({"prompt": [1, "x"]}, "prompt: must be", "prompt"),
    ({"prompt": "", "add_BOS": False}, "a prompt is empty; give it text, or add_BOS=true", None),
    ({"prompt": {"a": 1}}, "prompt: must be", "prompt"),
    ({"prompt": [True]}, "prompt: must be", "prompt"),
    ({"prompt": [448]}, "prompt: token ids run from 0 to 447", "prompt"),
    ({"prompt": [-1]}, "prompt: token ids run from 0 to 447", "prompt"),
    ({"prompt": ["x"] * 129}, "asks for 129 completions; this server's limit is 128 per request", None),
    ({"prompt": ["x"] * 10, "n": 13}, "asks for 130 completions", None),
    ({"prompt": [5] * LENGTH}, f"a prompt has {LENGTH:,} tokens and max_tokens is 1;", "prompt"),
    ({"prompt": [5] * (LENGTH + 1), "max_tokens": 0}, "tokens and max_tokens is 0;", "prompt"),
    ({"max_tokens": LENGTH}, "this server's limit for both together is 4,096", "max_tokens"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0", "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer", "max_tokens"),
    ({"min_tokens": 6}, "min_tokens: must not be above max_tokens, 1", "min_tokens"),
    ({"temperature": -1}, "temperature: Input should be greater than or equal to 0", "temperature"),
    ({"temperature": 1e-9}, "temperature: must be 0 (the likeliest token) or at least 0.001", "temperature"),
    ({"top_p": 0}, "top_p: Input should be greater than 0", "top_p"),
    ({"n": 0}, "n: Input should be", "n"),
    ({"best_of": 4}, "best_of: is not supported here", "best_of"),
    (
        {"presence_penalty": 0.5},
        "presence_penalty: is not supported here, use repetition_penalty",
        "presence_penalty",
    ),
    ({"frequency_penalty": -2}, "frequency_penalty: is not supported here", "frequency_penalty"),
    ({"suffix": "end"}, "suffix: is not supported here", "suffix"),
    ({"stop": ""}, "stop: must be a text or a list of texts, none of them empty", "stop"),
    ({"stop": ["a"] * 17}, "stop: at most 16 texts", "stop"),
    ({"stop": 5}, "stop: must be", "stop"),
    ({"logprobs": 21}, "logprobs: Input should be less than or equal to 20", "logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias: its keys must be token ids", "logit_bias"),
    ({"logit_bias": {"448": 1}}, "logit_bias: token ids run from 0 to 447", "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5: Input should be less than or equal to 100", "logit_bias.5"),
    ({"stream_options": {"include_usage": True}}, "stream_options: goes with stream=true", "stream_options"),
    ({"seed": 2**63}, "seed: Input should be less than", "seed"),
    ({"seed": 1.5}, "seed: Input should be a valid integer", "seed"),
    ({"tools": [], "functions": 1}, "unknown fields: tools, functions", "tools"),
    ({"model": 1}, "model: Input should be a valid string", "model"),
    ({"top_k": -2}, "top_k: Input should be greater than or equal to -1", "top_k"),
]


@pytest.mark.parametrize(("fields", "message", "param"), REFUSED, ids=[str(row[0])[:40] for row in REFUSED])
def test_refused(server: Server, fields: dict[str, Any], message: str, param: str | None) -> None:
    answer = server.post({"model": NAME, "prompt": "x", "max_tokens": 1} | fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_what_asks_for_nothing_can_be_sent_or_left_out(server: Server) -> None:
    """Programs written for vLLM or llama.cpp name no model where there is one, and have -1 for no top_k."""
    body = {"prompt": "ab", "max_tokens": 5, "seed": 3}
    texts = [
        server.post(body | fields).json()["choices"][0]["text"]
        for fields in ({"model": NAME}, {}, {"model": None}, {"user": "me"}, {"top_k": 0}, {"top_k": -1})
    ]
    assert len(set(texts)) == 1


def test_fields_that_ask_for_nothing(client: OpenAI) -> None:
    """Clients send them without being asked to."""
    create(client, best_of=1, presence_penalty=0, frequency_penalty=0.0, suffix="", stop=None, logit_bias={})
    create(client, n=2, best_of=2, max_tokens=1, stream=False, user=openai.omit)


def test_another_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the request's body is no JSON"),
        (b"[1]", 400, "the request's body: Input should be an object"),
        (b'{"model": "tiny", "prompt": "\\udcff"}', 400, "the request's body is no JSON"),
        (b'{"model": "tiny", "prompt": "\xff"}', 400, "the request's body is no JSON"),
        (b'{"model": "tiny", "temperature": NaN, "prompt": "x"}', 400, "temperature: "),
        (b"[" * 100_000, 400, "the request's body is no JSON"),
        (b'{"model": "tiny", "prompt": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "prompt: must be"),
        (b" " * (2**20 + 1), 413, "the request's body has more than 1,048,576 bytes"),
    ],
)
def test_bodies(server: Server, content: bytes, status: int, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/completions", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


def test_a_body_whose_length_is_not_told(server: Server) -> None:
    parts = (b"x" * 2**16 for _ in range(17))
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/completions", content=parts, headers=headers)
    assert answer.status_code == 413


def test_any_value_of_any_field(server: Server) -> None:
    """It is answered, or refused in OpenAI's shape; never a fault of ours."""
    numbers = [0, -1, 3, 0.5, 1e308, 10**30]
    texts = ["", "x", "\u0000भ"]
    lists: list[Any] = [[], [None], [1.5], ["a"], [[1], [2]], [{}]]
    others: list[Any] = [None, True, {}, {"x": {}}]
    statuses = set()
    with httpx.Client(base_url=server.url, timeout=240) as client:
        for field in CompletionBody.model_fields:
            for value in (*numbers, *texts, *lists, *others):
                body = {"model": NAME, "prompt": "a", "max_tokens": 1, field: value}
                if field == "max_tokens" and value is None:
                    continue  # As many as fit: it takes long.
                answer = client.post("/v1/completions", json=body)
                statuses.add(answer.status_code)
                assert answer.status_code in (200, 400, 404), (body, answer.text)
                if answer.status_code != 200:
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert statuses == {200, 400, 404}


def test_only_json(server: Server) -> None:
    """What a page in a browser may send anywhere, without asking, is text."""
    headers = {"Content-Type": "text/plain"}
    answer = httpx.post(f"{server.url}/v1/completions", content=b"{}", headers=headers)
    assert answer.status_code == 415


def test_other_addresses(server: Server) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{server.url}/v1/models/").status_code == 404  # Not sent elsewhere.
    answer = httpx.get(f"{server.url}/v1/completions")
    assert answer.status_code == 405 and answer.json()["error"]["message"].startswith("GET /v1/completions")


def test_another_host_name(server: Server) -> None:
    """A page can let its own name lead to this machine."""
    for host in ("evil.example", "evil.example:5555", "[", "127.0.0.1.evil.example", "localhost:x", ""):
        answer = httpx.get(f"{server.url}/v1/models", headers={"Host": host})
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "wrong_host"
    for host in ("localhost", "LOCALHOST:5555", "127.0.0.1", "[::1]:80"):
        assert httpx.get(f"{server.url}/v1/models", headers={"Host": host}).status_code == 200


def test_metrics(server: Server, client: OpenAI) -> None:
    before = server.metrics()
    create(client, PROMPTS[:2], n=2, max_tokens=5, logit_bias={"2": -100})
    after = server.metrics()
    path = 'recipes_requests_total{path="/v1/completions",status="200"}'
    assert after[path] == before.get(path, 0) + 1
    assert after["recipes_generated_tokens_total"] == before["recipes_generated_tokens_total"] + 20
    assert after["recipes_prompt_tokens_total"] > before["recipes_prompt_tokens_total"]
    for name in ("time_to_first_token", "request_duration"):
        key = f"recipes_{name}_seconds_count"
        assert after[key] == before[key] + 1
    server.post({"model": NAME, "prompt": 5})
    httpx.get(f"{server.url}/made-up/{'x' * 50}")
    found = server.metrics()
    assert found['recipes_requests_total{path="/v1/completions",status="400"}'] >= 1
    assert found['recipes_requests_total{path="other",status="404"}'] >= 1
    assert not any("made-up" in name for name in found)


def test_sixty_four_clients(server: Server, client: OpenAI) -> None:
    """Every answer equals the same request's alone: greedy or drawn, streamed or not, long or short."""
    requests = [
        {
            "prompt": PROMPTS[number % len(PROMPTS)],
            "max_tokens": 5 + number * 7 % 60,
            "seed": number,
            "temperature": 0 if number % 3 == 0 else 1,
            "stream": number % 2 == 0,
        }
        for number in range(64)
    ]

    async def ask(everybody: AsyncOpenAI, options: dict[str, Any]) -> str:
        answer: Any = await everybody.completions.create(model=NAME, **options)
        if not options["stream"]:
            return str(answer.choices[0].text)
        return "".join([part.choices[0].text async for part in answer])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as everybody:
            return await asyncio.gather(*(ask(everybody, options) for options in requests))

    together = asyncio.run(ask_all())
    alone = [create(client, **options | {"stream": False}).choices[0].text for options in requests]
    assert together == alone
    assert server.metrics()["recipes_running_completions"] == 0
