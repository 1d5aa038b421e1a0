"""One completion as it grows: its text, and its tokens once their text is final."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recipes.data.tokenizer import TextTokenizer
from recipes.inference.requests import STOP, Event
from recipes.inference.text_stream import TextStream
from recipes.inference.token_text import offsets, text_within
from recipes.server.asked import Asked


@dataclass(frozen=True)
class Token:
    """A token of an answer."""

    id: int
    offset: int
    """The character of the answer's text at which it begins."""
    logprob: float | None
    """None: it is a prompt's first."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their log-probabilities."""


@dataclass(frozen=True)
class Part:
    """What is new of a completion."""

    text: str
    tokens: list[Token]
    """Those of the text."""
    ids: tuple[int, ...]
    """What was generated for it, the end token included."""
    finish_reason: str | None = None


class Choice:
    """Turns a completion's events into parts of an answer.

    A streamed answer is these parts one by one, any other one all of them together.
    """

    def __init__(self, tokenizer: TextTokenizer, asked: Asked) -> None:
        self._tokenizer, self._asked = tokenizer, asked
        request = asked.request
        self._stream = TextStream(tokenizer, request.prompt, asked.stop)
        self._length = len(asked.prompt_text) if asked.echo else 0
        """Characters of the text that is given out."""
        self._decoded = self._length
        """And of what is decoded."""
        self._waiting: list[Token] = []
        """Their text is not final."""
        self._echo = asked.echo
        self._trimming = asked.trim_start

    def add(self, event: Event) -> Part:
        """What this event adds."""
        text, tokens = self._prompt(event)
        wants_tokens = self._asked.request.logprobs
        for number, token in enumerate(event.token_ids):
            # Some models end a turn with a token that also is text.
            new = "" if token in self._asked.request.end_ids else self._stream.push([token])
            text += new
            self._length += len(new)
            before, self._decoded = self._decoded, self._length + self._stream.held
            if wants_tokens:
                assert event.logprobs is not None
                # It may show that bytes before it fit nowhere, which then are text too.
                offset = max(before, self._decoded - len(text_within(self._tokenizer, token)))
                top = event.top[number][: self._asked.top] if event.top else ()
                self._waiting.append(Token(token, offset, event.logprobs[number], top))
        if event.finished is not None:
            rest = self._stream.finish()
            text += rest
            self._length += len(rest)
        if self._trimming:
            text = text.lstrip()
            self._trimming = not text
        return Part(text, [*tokens, *self._final(event)], event.token_ids, event.finished)

    def _final(self, event: Event) -> list[Token]:
        """Tokens whose text is given out: no stop string's, and the end token only if it is asked for."""
        if event.finished is None or self._stream.stopped_by is not None:
            final = [token for token in self._waiting if token.offset < self._length]
        elif event.finished == STOP and not self._asked.end_token:
            final = self._waiting[:-1]
        else:
            final = self._waiting
        self._waiting = self._waiting[len(final) :]
        return final

    def _prompt(self, event: Event) -> tuple[str, list[Token]]:
        """The prompt, if it is repeated and this is the first event."""
        if not self._echo:
            return "", []
        self._echo = False
        tokens: list[Token] = []
        if self._asked.request.prompt_logprobs:
            assert event.prompt_logprobs is not None
            ids = list(self._asked.request.prompt)
            places = offsets(self._tokenizer, ids)
            tops = [entries[: self._asked.top] for entries in event.prompt_top or [()] * (len(ids) - 1)]
            tokens = list(map(Token, ids, places, (None, *event.prompt_logprobs), ((), *tops)))
        return self._asked.prompt_text, tokens


def token_text(tokenizer: TextTokenizer, token: int) -> str:
    """What a token adds to a text; of special tokens and parts of characters, how the model writes them."""
    return text_within(tokenizer, token) or tokenizer.id_to_piece(token)


def top_texts(tokenizer: TextTokenizer, top: Iterable[tuple[int, float | None]]) -> dict[str, float | None]:
    """Log-probabilities by their tokens' texts; a text that two tokens share stands for the likelier one."""
    texts: dict[str, float | None] = {}
    for token, logprob in top:
        text = token_text(tokenizer, token)
        texts[tokenizer.id_to_piece(token) if text in texts else text] = logprob
    return texts
