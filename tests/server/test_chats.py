"""/v1/chat/completions, with a template that came with the model's file and without one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from transformers import AutoTokenizer

from recipes.checkpoint.convert import convert
from recipes.checkpoint.huggingface.chat import GENERATION, SETTINGS, TEMPLATE
from recipes.checkpoint.open import open_stored_model
from recipes.data.tokenizer.train_byte_bpe import train_byte_bpe
from recipes.server.chat_template import ChatTemplate, stored_template
from recipes.server.errors import Refusal
from tests.support.nemo_files import MAIN
from tests.support.server import Server

CHATML = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('the system speaks first') }}{% endif %}"
    "{{ message.role }}: {{ message.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": " नदी कहाँ है? "},
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NeMo's fixture with a template and a further token that ends a turn, as one .nemo."""
    directory = tmp_path_factory.mktemp("chat")
    convert(MAIN / "model.nemo", directory / "hf", "hf")
    (directory / "hf" / TEMPLATE).write_text(CHATML)
    generation = json.loads((directory / "hf" / GENERATION).read_bytes()) | {"eos_token_id": [2, 5]}
    (directory / "hf" / GENERATION).write_text(json.dumps(generation))
    convert(directory / "hf", directory / "chat.nemo", "nemo")
    return directory / "chat.nemo"


@pytest.fixture(scope="module")
def client(stored: Path) -> Iterator[OpenAI]:
    with Server(stored) as server:
        yield server.client()


def create(client: OpenAI, messages: Any = MESSAGES, **options: Any) -> Any:
    return client.chat.completions.create(
        model="chat", messages=messages, **{"max_tokens": 8, "temperature": 0} | options
    )


def test_an_answer_follows_the_rendered_messages(client: OpenAI, stored: Path) -> None:
    with open_stored_model(stored) as source:
        template = stored_template(source)
    assert template is not None and template.ends == {2, 5}
    ids = template.ids(MESSAGES)
    assert ids[0] == 1 and ids.count(2) == 2  # <s> and </s> are tokens.
    text = template.tokenizer.decode(ids)
    assert "system: Be short." in text and "नदी कहाँ है?" in text
    answer = create(client, max_tokens=6, logit_bias={"5": -100})
    expected = client.completions.create(
        model="chat", prompt=ids, max_tokens=6, temperature=0, logit_bias={"5": -100}
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == expected.choices[0].text.lstrip()
    assert answer.usage == expected.usage


def test_the_developer_is_the_system(client: OpenAI) -> None:
    said = MESSAGES[1:]
    texts = [
        create(client, [{"role": role, "content": "Be short."}, *said]).choices[0].message.content
        for role in ("system", "developer", "assistant")
    ]
    assert texts[0] == texts[1] != texts[2]


def test_an_answer_begins_with_its_first_word(client: OpenAI, stored: Path) -> None:
    """The space after the template's last word is no part of the message; completions keep theirs."""
    with open_stored_model(stored) as source:
        template = stored_template(source)
    assert template is not None
    tokenizer = template.tokenizer
    spaced = next(n for n in range(tokenizer.vocab_size) if re.fullmatch("▁[a-z]+", tokenizer.id_to_piece(n)))
    word = tokenizer.id_to_piece(spaced)[1:]
    bias = {"max_tokens": 2, "logit_bias": {str(spaced): 100}}
    assert create(client, **bias).choices[0].message.content == f"{word} {word}"
    parts = [part.choices[0].delta.content or "" for part in create(client, **bias, stream=True)]
    assert "".join(parts) == f"{word} {word}"
    plain = client.completions.create(model="chat", prompt=template.ids(MESSAGES), temperature=0, **bias)
    assert plain.choices[0].text == f" {word} {word}"


def test_a_text_is_one_part(client: OpenAI) -> None:
    whole, parts = (
        create(client, [{"role": "user", "content": content}], response_format={"type": "text"})
        for content in ("नदी कहाँ", [{"type": "text", "text": "नदी"}, {"type": "text", "text": " कहाँ"}])
    )
    assert whole.choices == parts.choices and whole.usage == parts.usage


def test_a_turn_ends_at_any_of_its_tokens(client: OpenAI) -> None:
    for end in ("2", "5"):
        choice = create(client, logit_bias={end: 100}).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("", "stop")


def test_streaming_equals_non_streaming(client: OpenAI) -> None:
    options = {"n": 2, "seed": 3, "temperature": 1, "logprobs": True, "top_logprobs": 2, "max_tokens": 10}
    whole = create(client, **options)
    *parts, last = list(create(client, stream=True, stream_options={"include_usage": True}, **options))
    assert last.usage == whole.usage
    for choice in whole.choices:
        mine = [part.choices[0] for part in parts if part.choices[0].index == choice.index]
        assert [part.delta.role for part in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        tokens = [token for part in mine for token in part.logprobs.content]
        assert tokens == choice.logprobs.content
        assert all(len(token.top_logprobs) == 2 and token.logprob < 0 for token in tokens)


def test_as_many_tokens_as_fit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "a"}], logit_bias={"2": -100, "5": -100}
    )
    assert answer.usage.total_tokens == 64
    assert create(client, max_tokens=openai.omit, max_completion_tokens=3).usage.completion_tokens <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": "x", "evil": 1}]}, "unknown fields: messages.0.evil"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages.0.content: must be a text, or a list of parts, each with a text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content: only parts of the type text can be read here",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "evil": 1}]}]},
            "unknown fields: messages.0.content.0.evil",
        ),
        (
            {"response_format": {"type": "json_object"}},
            "response_format.type: Input should be 'text'",
        ),
        ({"messages": [{"role": "user", "content": "\ufdd0"}]}, "messages.0.content: U+FDD0 is no character"),
        ({"messages": [*MESSAGES, MESSAGES[0]]}, "refuses this: the system speaks first"),
        ({"top_logprobs": 2}, "top_logprobs: goes with logprobs=true"),
        ({"max_completion_tokens": 5}, "max_completion_tokens: is the newer name of max_tokens"),
        ({"tools": []}, "unknown fields: tools"),
        ({"messages": [{"role": "user", "content": "long " * 60}]}, "this server's limit for both together"),
    ],
)
def test_refused(client: OpenAI, options: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **options)
    assert message in str(caught.value)


def test_without_a_template() -> None:
    with Server(MAIN / "model.nemo") as server, pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(model="model", messages=MESSAGES)  # type: ignore[arg-type]
    assert caught.value.code == "no_chat_template"


@pytest.fixture(scope="module")
def byte_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer directory as tools.train_tokenizer writes it."""
    directory = tmp_path_factory.mktemp("byte_bpe")
    for name, content in train_byte_bpe(iter(["India is a land of rivers नदी"] * 5), 280).items():
        (directory / name).write_bytes(content)
    settings = json.loads((directory / SETTINGS).read_bytes())
    # As transformers needs it to find special tokens in what a template writes.
    (directory / SETTINGS).write_text(json.dumps(settings | {"split_special_tokens": False}))
    return directory


def chat_template(directory: Path, text: str = CHATML) -> ChatTemplate:
    from recipes.data.tokenizer import load_tokenizer

    return ChatTemplate(text, load_tokenizer(directory), frozenset({0}))


def test_the_same_tokens_as_transformers(byte_bpe: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(byte_bpe)
    template = chat_template(byte_bpe)
    messages = [*MESSAGES, {"role": "assistant", "content": "Here\n\n"}, {"role": "user", "content": "a  b"}]
    expected = theirs.apply_chat_template(
        messages, chat_template=CHATML, add_generation_prompt=True, return_dict=False
    )
    assert template.ids(messages) == expected


def test_nobody_ends_a_turn_within_a_message(byte_bpe: Path) -> None:
    template = chat_template(byte_bpe)
    for name, token in template.tokenizer.special_tokens().items():
        harmless = template.ids([{"role": "user", "content": "x"}]).count(token)
        for content in (name, f"x{name}y", f"{name}{name}", f"{name[0]}{name}{name[1:]}"):
            ids = template.ids([{"role": "user", "content": content}])
            assert ids.count(token) == harmless
            assert f"user: {content}" in template.tokenizer.decode(ids)  # It is text, to the letter.


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set _ = messages.append('x') %}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% if %}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(byte_bpe: Path, text: str) -> None:
    with pytest.raises(Refusal, match="the model's chat template refuses this"):
        chat_template(byte_bpe, text).ids(MESSAGES)
