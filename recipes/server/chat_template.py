"""From the messages of a chat to the model's tokens, by the template that is stored with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.checkpoint.huggingface.chat import default_template, turn_ends
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.console import printable
from recipes.data.tokenizer import TextTokenizer
from recipes.inference.requests import MOST_END_IDS
from recipes.server.errors import Refusal

# A noncharacter: it is in no text, and breaks up what only looks like a special token.
_BREAK = "\ufdd0"


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template. It came with the file: Jinja's sandbox runs it, and it sees the messages alone.

    Args:
        text: in Jinja's language.
        tokenizer: of the model.
        ends: the tokens that end an answer.
    """

    text: str
    tokenizer: TextTokenizer
    ends: frozenset[int]
    _special: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_special", self.tokenizer.special_tokens())

    def ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The tokens after which the assistant's answer follows.

        The names of special tokens in the template become these tokens; those in a message stay text, so that
        nobody can end a turn or begin another within a message.

        Raises:
            Refusal: the template does not accept the messages.
        """
        broken = [
            {**message, "content": self._broken(message["content"], number)}
            for number, message in enumerate(messages)
        ]
        names = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        ids: list[int] = []
        for part in re.split(f"({names})", self._rendered(broken)) if names else [self._rendered(broken)]:
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids += self.tokenizer.encode(part.replace(_BREAK, ""))
        return ids

    def _broken(self, content: str, number: int) -> str:
        if _BREAK in content:
            raise Refusal(f"messages.{number}.content: U+FDD0 is no character", param="messages")
        for name in self._special:
            content = content.replace(name, f"{name[0]}{_BREAK}{name[1:]}")
        return content

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        names: dict[str, Any] = {
            "bos_token": self._name(self.tokenizer.bos_id),
            "eos_token": self._name(self.tokenizer.eos_id),
        }
        try:
            texts, _ = render_jinja_template(  # type: ignore[str-unpack] # It says that it returns a text.
                [messages], chat_template=self.text, add_generation_prompt=True, **names
            )
        except Exception as error:  # A template can raise anything.
            message = printable(str(error))[:300]
            raise Refusal(f"the model's chat template refuses this: {message}", param="messages") from None
        return str(texts[0])

    def _name(self, token: int | None) -> str:
        return "" if token is None else self.tokenizer.id_to_piece(token)


def stored_template(source: StoredModel) -> ChatTemplate | None:
    """The template that is stored with a model; None: there is none.

    Raises:
        UserError: its file is damaged.
    """
    text = default_template(source.tokenizer)
    if text is None:
        return None
    tokenizer = source.text_tokenizer
    ends = sorted(end for end in turn_ends(source.tokenizer) if 0 <= end < tokenizer.vocab_size)
    return ChatTemplate(text, tokenizer, frozenset([tokenizer.eos_id, *ends][:MOST_END_IDS]))
