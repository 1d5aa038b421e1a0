"""The chat template that is stored with a model, for those who complete with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipes.checkpoint.huggingface.chat import default_template, turn_ends
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.data.chat.conversations import Message
from recipes.data.chat.template import Template, TemplateError
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.inference.requests import MOST_END_IDS


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template. It came with the file.

    Args:
        text: in Jinja's language.
        tokenizer: of the model.
        ends: the tokens that end an answer.
    """

    text: str
    tokenizer: TextTokenizer
    ends: frozenset[int]
    template: Template = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", Template(self.text, self.tokenizer))

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """As :meth:`Template.ids`.

        Raises:
            UserError: the template does not accept the messages.
        """
        try:
            return self.template.ids(messages)
        except TemplateError as error:
            raise UserError(f"the model's chat template refuses this: {error}") from None


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


def template_of(path: str) -> ChatTemplate:
    """That of the model at a path.

    Raises:
        UserError: there is none.
    """
    with open_stored_model(Path(path), verify=False) as source:
        template = stored_template(source)
    if template is None:
        raise UserError(f"chat=true: {path} is stored without a chat template; set it to false")
    return template
