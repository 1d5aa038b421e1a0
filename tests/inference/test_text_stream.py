"""Text that is shown while it is generated."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache

import pytest
import regex
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from recipes.checkpoint.open import open_stored_model
from recipes.data.tokenizer import TextTokenizer
from recipes.data.tokenizer.hugging_face import HuggingFaceTokenizer
from recipes.inference.text_stream import TextStream, whole_text
from tests.support.nemo_files import MAIN
from tests.support.tiny_text_model import text_tokenizer, train_tokenizer

TEXTS = [
    "India is a land of rivers.",
    "भारत में क्षत्रिय राज्य थे; श्री कृष्ण ने कहा।",
    "  two  spaces\n\nand\ta tab ",
    "👨‍👩‍👧 family, 🇮🇳 flag, é and e\u0302\u0323, 한국어, 中文",
    "क्‍ष रू ▁ x",
]


@cache
def sentencepiece() -> TextTokenizer:
    """With byte fallback and a space put before the text, as NeMo's."""
    with open_stored_model(MAIN / "model.nemo") as source:
        return source.text_tokenizer


@cache
def byte_bpe() -> TextTokenizer:
    return text_tokenizer(train_tokenizer())


@cache
def byte_fallback() -> TextTokenizer:
    """As Llama 2's tokenizer.json: its decoder shows a run of byte tokens only if all of them fit."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "n", "▁a"]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)},
        [("▁", "a")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    contents = {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(names).encode(),
    }
    return HuggingFaceTokenizer(contents, "fallback")


Make = Callable[[], TextTokenizer]
TOKENIZERS: list[Make] = [sentencepiece, byte_bpe, byte_fallback]


def streamed(tokenizer: TextTokenizer, prompt: list[int], ids: list[int], *stop: str) -> list[str]:
    stream = TextStream(tokenizer, prompt, stop)
    return [*(stream.push([token]) for token in ids), stream.finish()]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_parts_add_up(make: Make, text: str) -> None:
    """From every place, also within a character: to what decoding everything adds."""
    tokenizer = make()
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    whole = tokenizer.decode(ids)
    assert "".join(streamed(tokenizer, [], ids)) == whole
    for cut in range(1, len(ids)):
        prompt, rest = ids[:cut], ids[cut:]
        before = tokenizer.decode(prompt)
        if "\ufffd" not in before:
            assert "".join(streamed(tokenizer, prompt, rest)) == whole[len(before) :]


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_no_part_ends_within_a_character_or_a_conjunct(make: Make, text: str) -> None:
    tokenizer = make()
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    # A mark after an ASCII letter comes by itself: English must not wait for it.
    places = {match.end() for match in regex.finditer(r"\X", whole)} | {
        place for place in range(1, len(whole) + 1) if whole[place - 1].isascii()
    }
    shown = 0
    for part in streamed(tokenizer, [], ids):
        assert "\ufffd" not in part
        shown += len(part)
        assert not part or shown in places


@pytest.mark.parametrize("make", TOKENIZERS)
def test_random_ids(make: Make) -> None:
    """Bytes that fit nowhere become U+FFFD, nothing is held back for ever, and grouping changes nothing."""
    tokenizer = make()
    generator = random.Random(0)
    for _ in range(100):
        ids = [generator.randrange(tokenizer.vocab_size) for _ in range(40)]
        parts = streamed(tokenizer, ids[:3], ids[3:])
        assert "".join(parts) == whole_text(tokenizer, ids[:3], ids[3:])
        if make is not byte_fallback and "\ufffd" not in tokenizer.decode(ids[:3]):
            expected = tokenizer.decode(ids)[len(tokenizer.decode(ids[:3])) :]
            assert "".join(parts) == expected


def test_english_does_not_wait() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("India is a land")
    parts = streamed(tokenizer, [], ids)
    assert [bool(part) for part in parts[1:-1]] == [True] * (len(ids) - 1)
    assert parts[-1] == ""


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize(
    ("stop", "expected", "found"),
    [
        (("rivers",), "India is a land of ", "rivers"),
        (("land of rivers.", "a land"), "India is ", "a land"),
        (("a land of", "a land"), "India is ", "a land"),
        (("rivers!", "lands"), "India is a land of rivers.", None),
        (("I",), "", "I"),
    ],
)
def test_stop_strings(make: Make, stop: tuple[str, ...], expected: str, found: str | None) -> None:
    """No part of one is ever shown, whatever tokens it is made of."""
    tokenizer = make()
    ids = tokenizer.encode(TEXTS[0])
    stream = TextStream(tokenizer, [], stop)
    shown = ""
    for token in ids:
        shown += stream.push([token])
        assert expected.startswith(shown)
    assert shown + stream.finish() == expected
    assert stream.stopped_by == found
    if found is not None:
        assert stream.push(ids) == stream.finish() == ""


def test_a_stop_string_in_the_middle_of_a_conjunct() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("राज्य और")
    assert "".join(streamed(tokenizer, [], ids, "य ")) == "राज्"


def test_a_heap_of_marks_is_let_through() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("क" + "\u0302" * 500)
    parts = streamed(tokenizer, [], ids)
    assert len(parts[-1]) <= 130
    assert "".join(parts) == tokenizer.decode(ids)
