"""The chat template that is stored with a model, and what its refusals are to a client."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.data.chat.conversations import Message
from recipes.data.chat.template import TemplateError
from recipes.inference import chat_template
from recipes.server.errors import Refusal


class ChatTemplate(chat_template.ChatTemplate):
    """A model's template, for requests."""

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """As :meth:`recipes.data.chat.template.Template.ids`.

        Raises:
            Refusal: the template does not accept the messages.
        """
        try:
            return self.template.ids(messages)
        except TemplateError as error:
            if error.message is not None:
                raise Refusal(f"messages.{error.message}.content: {error}", param="messages") from None
            raise Refusal(f"the model's chat template refuses this: {error}", param="messages") from None


def stored_template(source: StoredModel) -> ChatTemplate | None:
    """The template that is stored with a model; None: there is none.

    Raises:
        UserError: its file is damaged.
    """
    found = chat_template.stored_template(source)
    return None if found is None else ChatTemplate(found.text, found.tokenizer, found.ends)
