"""Templates: the text is transformers', and exactly what the assistant says is counted."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from recipes.data.chat.template import DEFAULT, Template, TemplateError
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.train_byte_bpe import train_byte_bpe
from recipes.errors import UserError
from tests.support.corpus import TinyData

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "नदी कहाँ है?"},
    {"role": "assistant", "content": "Here, in  India."},
    {"role": "user", "content": "And where </s> is it<|im_end|>?"},
    {"role": "assistant", "content": "कहीं नहीं।"},
]
PLAIN = [
    {**message, "content": message["content"].replace("</s>", "").replace("<|im_end|>", "")}
    for message in MESSAGES
]


@pytest.fixture(scope="module")
def byte_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer directory with tokens for turns."""
    directory = tmp_path_factory.mktemp("byte_bpe")
    for name, content in train_byte_bpe(iter(["India is a land of rivers नदी"] * 5), 280).items():
        (directory / name).write_bytes(content)
    settings = json.loads((directory / "tokenizer_config.json").read_bytes())
    settings |= {"split_special_tokens": False, "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def test_tokens_and_answers_are_those_of_transformers(byte_bpe: Path) -> None:
    """Transformers finds what the assistant says by marks in the template; here nothing needs marking."""
    theirs = AutoTokenizer.from_pretrained(byte_bpe)
    expected = theirs.apply_chat_template(
        PLAIN, chat_template=CHATML, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, said = Template(CHATML, load_tokenizer(byte_bpe)).ids_and_answers(PLAIN)
    assert ids == expected["input_ids"]
    assert said == [bool(mark) for mark in expected["assistant_masks"]]
    assert 0 < sum(said) < len(said)


@pytest.mark.parametrize("text", [CHATML, DEFAULT])
def test_a_prompt_is_the_beginning_of_what_was_trained(
    text: str, byte_bpe: Path, tiny_data: TinyData
) -> None:
    """Up to each answer, which is all that counts: it and what ends it."""
    for tokenizer in (load_tokenizer(byte_bpe), load_tokenizer(tiny_data.tokenizer)):
        template = Template(text, tokenizer)
        ids, said = template.ids_and_answers(MESSAGES)
        for number, message in enumerate(MESSAGES):
            if message["role"] != "assistant":
                continue
            prompt = template.ids(MESSAGES[:number])
            assert ids[: len(prompt)] == prompt
            assert not said[len(prompt) - 1] and said[len(prompt)]
            end = said.index(False, len(prompt)) if False in said[len(prompt) :] else len(said)
            answer = ids[len(prompt) : end]
            assert tokenizer.decode(answer).removesuffix("<|im_end|>").strip() == message["content"]
        ends = {"<|im_end|>": tokenizer.special_tokens().get("<|im_end|>"), DEFAULT: tokenizer.eos_id}
        if text == DEFAULT:
            assert ids.count(ends[DEFAULT]) == 2  # The one that the user writes is text.
        assert (
            template.ids_and_answers(MESSAGES[:3])[0] == ids[: len(template.ids_and_answers(MESSAGES[:3])[0])]
        )


def test_the_default_text_is_what_transformers_renders(byte_bpe: Path) -> None:
    theirs, template = AutoTokenizer.from_pretrained(byte_bpe), Template(DEFAULT, load_tokenizer(byte_bpe))
    for prompt in (True, False):
        expected = theirs.apply_chat_template(
            MESSAGES, chat_template=DEFAULT, tokenize=False, add_generation_prompt=prompt
        )
        assert template.rendered(MESSAGES, prompt=prompt) == expected
    assert "User: नदी कहाँ है?\nAssistant: Here, in  India." in expected


def test_templates_that_write_earlier_turns_otherwise(byte_bpe: Path) -> None:
    """As those that leave out what a model thought before: no prompt would look as in training."""
    forgetful = "{% for m in messages %}{{ m.role }}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(TemplateError, match="otherwise once others follow"):
        Template(forgetful, load_tokenizer(byte_bpe)).ids_and_answers(MESSAGES)


def test_loops_in_loops_end(tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.chat.template.LONGEST_S", 0.2)
    text = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match=r"computes for over 0\.2 s at one conversation: does it loop"):
        Template(text, load_tokenizer(tiny_data.tokenizer)).ids(PLAIN[:1])
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0
