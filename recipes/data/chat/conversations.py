"""A conversation out of a JSON record, in the shapes in which instructions are published."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    "system": SYSTEM,
    "user": USER,
    "assistant": ASSISTANT,
    # ShareGPT's.
    "human": USER,
    "gpt": ASSISTANT,
}

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``, in NFC."""


class BadConversation(ValueError):
    """A record that no conversation can be made of.

    Args:
        reason: one of a few, so that it can be counted.
    """


def read_conversation(record: Mapping[str, Any]) -> list[Message]:
    """A record's messages: OpenAI's ``messages``, ShareGPT's ``conversations``, ``prompt``/``completion``.

    A conversation may begin with the system's message; then user and assistant take turns, and the assistant
    has the last word.

    Raises:
        BadConversation: the record has none of these shapes, or its messages are not in this order.
    """
    messages = [{"role": role, "content": _text(content)} for role, content in _turns(record)]
    check_order([message["role"] for message in messages])
    for message in messages:
        if message["role"] == ASSISTANT and not message["content"].strip():
            raise BadConversation("an empty answer")
        if message["role"] == USER and not message["content"].strip():
            raise BadConversation("an empty message of the user")
    return messages


def check_order(roles: Sequence[str]) -> None:
    """
    Raises:
        BadConversation: these roles do not follow one another.
    """
    turns = roles[1:] if roles[:1] == [SYSTEM] else roles
    if not turns:
        raise BadConversation("no message of the user")
    if any(role != (USER, ASSISTANT)[place % 2] for place, role in enumerate(turns)):
        raise BadConversation("roles out of order")
    if turns[-1] != ASSISTANT:
        raise BadConversation("no answer at the end")


def _turns(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    for key, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if record.get(key) is None:  # Tables of several shapes have null where a record has another.
            continue
        turns = record[key]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise BadConversation(f"{key} is no list of messages")
        system = record.get("system")  # Where ShareGPT's shape keeps the system's message.
        first = [("system", system)] if key == "conversations" and system else []
        return first + [(_role(turn.get(role)), turn.get(content)) for turn in turns]
    if record.get("prompt") is not None and record.get("completion") is not None:
        return [(USER, record["prompt"]), (ASSISTANT, record["completion"])]
    raise BadConversation("neither messages nor conversations nor prompt and completion")


def _role(name: Any) -> str:
    if not isinstance(name, str) or name not in ROLES:
        raise BadConversation("a role other than system, user and assistant")
    return ROLES[name]


def _text(content: Any) -> str:
    """OpenAI's content may be a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise BadConversation("a message that is no text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise BadConversation("half of a surrogate pair") from None
    return unicodedata.normalize("NFC", content)
