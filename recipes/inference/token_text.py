"""The text of single tokens."""

from __future__ import annotations

from functools import lru_cache

from recipes.data.tokenizer import TextTokenizer
from recipes.inference.text_stream import TextStream


def text_within(tokenizer: TextTokenizer, token: int) -> str:
    """What a token adds to a text; empty for special tokens and parts of characters."""
    anchor, before = _anchor(tokenizer)
    text = tokenizer.decode([anchor, token])[len(before) :]
    return "" if "\ufffd" in text else text


def offsets(tokenizer: TextTokenizer, ids: list[int]) -> list[int]:
    """The character at which each token's text begins in the text of all; of a character's bytes the same."""
    stream = TextStream(tokenizer)
    found, before, released = [], 0, 0
    for token in ids:
        released += len(stream.push([token]))
        now = released + stream.held
        # A token may show that bytes before it fit nowhere, which then are text too.
        found.append(max(before, now - len(text_within(tokenizer, token))))
        before = now
    return found


@lru_cache(maxsize=4)
def _anchor(tokenizer: TextTokenizer) -> tuple[int, str]:
    """A token, with its text, after which others have the text that they have within one."""
    for token in range(tokenizer.vocab_size):
        text = tokenizer.decode([token])
        if text.strip().isalnum():
            return token, text
    raise ValueError(f"{tokenizer.name}: none of its tokens is a word")
