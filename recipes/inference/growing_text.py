"""The text of a completion while it is made, and the end strings that end it."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.config.schema import InferenceConfig
from recipes.inference.text_generator import TextGenerator
from recipes.inference.text_stream import TextStream

END_OF_TEXT = "<|endoftext|>"
"""In end_strings it stands for the end-of-document token, whatever the tokenizer calls it."""


class GrowingText:
    """One completion's text.

    Args:
        model: that writes it.
        prompt: the ids that it continues.
        settings: its end strings.
    """

    def __init__(self, model: TextGenerator, prompt: Sequence[int], settings: InferenceConfig) -> None:
        self.end_strings = [text for text in settings.end_strings if text != END_OF_TEXT]
        self._stream = TextStream(model.tokenizer, prompt, self.end_strings)
        self._keep_end = settings.keep_end_strings
        self._read = 0
        self._ready = ""

    def ends(self, generated: list[int]) -> bool:
        """Takes what is new of the ids; whether they hold an end string. The engine's rule for stopping."""
        self._ready += self._stream.push(generated[self._read :])
        self._read = len(generated)
        return self._stream.stopped_by is not None

    def take(self) -> str:
        """Text that is final and has not been taken: never half a character or conjunct."""
        text, self._ready = self._ready, ""
        return text

    def finish(self, generated: list[int]) -> str:
        """All text that has not been taken, as no ids follow these."""
        self.ends(generated)
        kept = (self._stream.stopped_by or "") if self._keep_end else ""
        return self.take() + self._stream.finish() + kept
