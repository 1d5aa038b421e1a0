"""From the messages of a chat to tokens, by a template in Jinja's language.

Templates come with checkpoints: transformers' own sandbox runs them, and they see the messages alone.
"""

from __future__ import annotations

import re
import signal
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from recipes.console import printable
from recipes.data.chat.conversations import ASSISTANT, Message
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError

DEFAULT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim }}\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] | trim }}\n"
    "{% else %}Assistant: {{ message['content'] | trim }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For tokenizers without tokens of their own for turns: an answer ends with the end of a text."""

LONGEST_S = 10.0
"""Processor time that a conversation's text may take. Published templates take milliseconds."""

# A noncharacter: it is in no text, and breaks up what only looks like a special token.
_BREAK = "\ufdd0"


class TemplateError(ValueError):
    """The template does not accept the messages.

    Args:
        message: whose fault it is, by its number; None: the template's.
    """

    def __init__(self, reason: str, message: int | None = None) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Template:
    """A template and the tokenizer that reads what it writes.

    Args:
        text: in Jinja's language.
        tokenizer: of the model.
    """

    text: str
    tokenizer: TextTokenizer
    _special: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_special", self.tokenizer.special_tokens())

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens after which the assistant's answer follows.

        The names of special tokens in the template become these tokens; those in a message stay text, so that
        nobody can end a turn or begin another within a message.

        Raises:
            TemplateError: the template does not accept the messages.
        """
        ids: list[int] = []
        for part in self._parts(self._rendered(self._all_broken(messages), prompt=True)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids += self.tokenizer.encode(part.replace(_BREAK, ""))
        return ids

    def ids_and_answers(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The tokens of a whole conversation, and which of them the assistant has to say.

        These are what comes after the words that ask for an answer, and what ends it.

        Raises:
            TemplateError: the template does not accept the messages, or writes a turn otherwise once others
                follow, so that no prompt looks as in training.
        """
        broken = self._all_broken(messages)
        whole = self._rendered(broken, prompt=False)
        answers = []
        for number, message in enumerate(broken):
            if message["role"] == ASSISTANT:
                before = self._rendered(broken[:number], prompt=True)
                after = self._rendered(broken[: number + 1], prompt=False)
                if not (after.startswith(before) and whole.startswith(after)):
                    raise TemplateError("it writes a turn otherwise once others follow", number)
                # Blanks after the token that ends a turn are the template's.
                answers.append(range(len(before), len(after.rstrip())))
        ids: list[int] = []
        said: list[bool] = []
        begin = 0
        for part in self._parts(whole):
            if part in self._special:
                found, places = [self._special[part]], [begin]
            else:
                # Where each character is in the part, and the part's end.
                characters = [place for place, character in enumerate(part) if character != _BREAK]
                characters.append(len(part))
                found, starts = self._encoded(part.replace(_BREAK, ""))
                places = [begin + characters[start] for start in starts]
            ids += found
            said += [any(place in answer for answer in answers) for place in places]
            begin += len(part)
        return ids, said

    def rendered(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The text, with the words that ask for an answer if ``prompt``."""
        return self._rendered(list(messages), prompt)

    def _encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens, and the character that each begins with."""
        if unicodedata.normalize("NFC", text) != text:
            raise TemplateError("what it writes is not NFC")
        ids, spans = self.tokenizer.encode(text), self.tokenizer.spans(text)
        return ids, [begin for begin, _ in spans]

    def _parts(self, text: str) -> list[str]:
        """Special tokens, and the text between them."""
        if not self._special:
            return [text] if text else []
        names = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        return [part for part in re.split(f"({names})", text) if part]

    def _all_broken(self, messages: Sequence[Message]) -> list[Message]:
        return [
            {**message, "content": self._broken(message["content"], number)}
            for number, message in enumerate(messages)
        ]

    def _broken(self, content: str, number: int) -> str:
        if _BREAK in content:
            raise TemplateError("U+FDD0 is no character", number)
        for name in self._special:
            content = content.replace(name, f"{name[0]}{_BREAK}{name[1:]}")
        return content

    def _rendered(self, messages: list[Message], prompt: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        names: dict[str, Any] = {
            "bos_token": self._name(self.tokenizer.bos_id),
            "eos_token": self._name(self.tokenizer.eos_id),
        }
        try:
            with _limited():
                texts, _ = render_jinja_template(  # type: ignore[str-unpack] # It says that it returns a text.
                    [messages], chat_template=self.text, add_generation_prompt=prompt, **names
                )
        except UserError:
            raise
        except Exception as error:  # A template can raise anything.
            raise TemplateError(printable(str(error))[:300]) from None
        return str(texts[0])

    def _name(self, token: int | None) -> str:
        return "" if token is None else self.tokenizer.id_to_piece(token)


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what a template computes after LONGEST_S, for jinja bounds one loop, but not loops in loops.

    Only in the main thread, which alone can be interrupted. Of processor time, as a machine may be busy.

    Raises:
        UserError: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> NoReturn:
        raise UserError(
            f"the chat template computes for over {LONGEST_S:g} s at one conversation: does it loop for ever?"
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
