"""OpenAI's ``/v1/chat/completions``: what may be asked, and the shape of the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recipes.server.asked import Asked, Served
from recipes.server.bodies import Body
from recipes.server.choice import Part, Token, token_text
from recipes.server.completions import SamplingBody
from recipes.server.errors import Refusal


class TextContent(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class TextFormat(Body):
    """The form that every answer has."""

    type: Literal["text"]


class Message(Body):
    """What one side said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextContent]
    """A text is one part."""

    @field_validator("content", mode="before")
    @classmethod
    def _content(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [TextContent(type="text", text=value)]
        if not isinstance(value, list):
            raise ValueError("must be a text, or a list of parts, each with a text")
        for part in value:
            if isinstance(part, dict) and part.get("type", "text") != "text":
                raise ValueError("only parts of the type text can be read here")
        return value

    @property
    def told(self) -> dict[str, str]:
        """As templates take it: the developer's is the newer name of the system's role."""
        text = "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(SamplingBody):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: TextFormat | None = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: Any) -> int | None:
        if value is not None and info.data.get("max_tokens") is not None:
            raise ValueError("is the newer name of max_tokens: send one of them")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _top(cls, value: int | None, info: Any) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("goes with logprobs=true")
        return value

    def asked(self, served: Served) -> list[Asked]:
        """The completions that it asks for.

        Raises:
            Refusal: the model has no chat template, or something does not fit it or this server.
        """
        served.check_name(self.model)
        if served.chat is None:
            raise Refusal(
                "this model has no chat template, so it was not trained for chats: use /v1/completions",
                code="no_chat_template",
            )
        ids = served.chat.ids([one.told for one in self.messages])
        asked = self.requests(
            served,
            [("", ids)],
            self.max_tokens or self.max_completion_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            ends=served.chat.ends,
        )
        # After "Assistant:" a model begins with a space, which a message that is sent back does not have.
        return [replace(one, trim_start=True) for one in asked]


@dataclass(frozen=True)
class ChatForm:
    """How chats are answered."""

    served: Served
    with_logprobs: bool
    id_prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def choice(self, part: Part, index: int) -> dict[str, Any]:
        """A whole completion."""
        return self._entry(part, index, {"message": {"role": "assistant", "content": part.text}})

    def chunk(self, part: Part, index: int, *, first: bool) -> dict[str, Any]:
        """A part of one; the first says who speaks."""
        delta: dict[str, str] = {"role": "assistant"} if first else {}
        if part.text or first:
            delta["content"] = part.text
        return self._entry(part, index, {"delta": delta})

    def _entry(self, part: Part, index: int, said: dict[str, Any]) -> dict[str, Any]:
        logprobs = {"content": [self._token(token) for token in part.tokens], "refusal": None}
        return {
            "index": index,
            **said,
            "logprobs": logprobs if self.with_logprobs else None,
            "finish_reason": part.finish_reason,
        }

    def _token(self, token: Token) -> dict[str, Any]:
        top = [self._scored(number, logprob) for number, logprob in token.top]
        return {**self._scored(token.id, token.logprob), "top_logprobs": top}

    def _scored(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = token_text(self.served.model.tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
