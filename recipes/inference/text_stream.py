"""The text of tokens as they come: never half a character, and its parts add up to the whole."""

from __future__ import annotations

from collections.abc import Sequence

import regex

from recipes.data.tokenizer import TextTokenizer

_REPLACEMENT = "\ufffd"
# The last character of a text may miss up to three bytes, and a decoder may show each byte that is there.
_MOST_UNFINISHED = 3
_CLUSTER = regex.compile(r"\X")
_LONGEST_CLUSTER = 64
"""Characters. Longer heaps of marks are no writing, and are let through."""


class TextStream:
    """Turns generated ids, a few at a time, into text that is final.

    A character whose bytes are not all there is held back, and so is a letter that the next token may still
    change: a sign or a virama joins the letter before it. Text that may be the beginning of a stop string is
    held back as well.

    Everything returned, :meth:`finish` included, adds up to the text that decoding prompt and ids together
    adds to the prompt, up to the first stop string. (Some decoders spoil a whole run of byte tokens if one of
    them fits nowhere; here that one alone becomes U+FFFD.)

    Args:
        tokenizer: of the model.
        prompt: the ids before; a token's text may depend on what it follows (SentencePiece drops the space
            that a text begins with).
        stop: the text ends before the first of these.
    """

    def __init__(
        self, tokenizer: TextTokenizer, prompt: Sequence[int] = (), stop: Sequence[str] = ()
    ) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids = _tail(tokenizer, prompt)
        """Decoded together: ids whose text is not taken yet, after some that show what they follow."""
        self._context = len(self._ids)
        """How many of them are taken whole."""
        self._before = tokenizer.decode(self._ids)
        """The text of those."""
        self._begun = ""
        """What is taken of the others' text; more of it waits for a character's last bytes."""
        self._held = ""
        """Taken, but not yet returned."""
        self._searched = 0
        """Where in the held text a stop string can begin that has not been looked for."""
        self.stopped_by: str | None = None
        """The stop string that was found; no more text follows."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that is final now that these ids follow; often empty."""
        for token in ids:
            if self.stopped_by is not None:
                break
            self._ids.append(token)
            new = self._new_text()
            complete = max(len(new.rstrip(_REPLACEMENT)), len(new) - _MOST_UNFINISHED)
            self._take(new[:complete], whole=complete == len(new))
        return self._release(self._final_length())

    def finish(self) -> str:
        """The rest of the text, as no more ids follow."""
        if self.stopped_by is None:
            self._take(self._new_text(), whole=True)
        return self._release(len(self._held))

    @property
    def held(self) -> int:
        """How many characters are decoded but held back."""
        return len(self._held)

    def _new_text(self) -> str:
        text = self._tokenizer.decode(self._ids)
        if text.startswith(self._before):
            return text[len(self._before) + len(self._begun) :]
        # A decoder that spoils a whole run of byte tokens because its last character is not complete.
        return self._tokenizer.decode(self._ids[self._context :])[len(self._begun) :]

    def _take(self, text: str, whole: bool) -> None:
        """Holds new text; ``whole``: it is all of the ids' text, and earlier ids may be forgotten."""
        self._held += text
        self._begun += text
        self._find_stop()
        if not whole or not self._begun:
            return
        alone = self._tokenizer.decode(self._ids[self._context :])
        if alone.strip() and _REPLACEMENT not in alone:  # Enough for what follows to be decoded as after all.
            self._ids, self._before = self._ids[self._context :], alone
        else:
            self._before += self._begun
        self._context, self._begun = len(self._ids), ""

    def _find_stop(self) -> None:
        places = [(self._held.find(text, self._searched), text) for text in self._stop]
        found = [(place, len(text), text) for place, text in places if place >= 0]
        if found:
            place, _, self.stopped_by = min(found)
            self._held = self._held[:place]
        elif self._stop:
            self._searched = max(0, len(self._held) - max(map(len, self._stop)) + 1)

    def _final_length(self) -> int:
        """How much of the held text no later token can change."""
        if self.stopped_by is not None:
            return len(self._held)
        final = _before_open_cluster(self._held)
        for text in self._stop:
            for length in range(min(len(text) - 1, len(self._held)), 0, -1):
                if self._held.endswith(text[:length]):
                    final = min(final, len(self._held) - length)
                    break
        return final

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        self._searched = max(0, self._searched - length)
        return text


def whole_text(
    tokenizer: TextTokenizer, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str] = ()
) -> str:
    """What a :class:`TextStream` gives for these ids altogether."""
    stream = TextStream(tokenizer, prompt, stop)
    return stream.push(ids) + stream.finish()


def _tail(tokenizer: TextTokenizer, prompt: Sequence[int]) -> list[int]:
    """The end of a prompt: enough to decode what follows as if after all of it."""
    length = 8
    while length < len(prompt):
        text = tokenizer.decode(prompt[-length:])
        if text.strip() and _REPLACEMENT not in text:
            return list(prompt[-length:])
        length *= 2
    return list(prompt)


def _before_open_cluster(text: str) -> int:
    """Where the last cluster begins if what follows could join it, else the text's length."""
    if (
        not text or text[-1].isascii()
    ):  # Composed text puts no mark on an ASCII letter; English must not wait.
        return len(text)
    begin = len(text)
    for cluster in _CLUSTER.finditer(text, max(0, len(text) - 2 * _LONGEST_CLUSTER)):
        begin = cluster.start()
    return begin if len(text) - begin <= _LONGEST_CLUSTER else len(text)
