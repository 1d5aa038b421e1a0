"""What a record is as a conversation, and what it is refused for."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.data.chat.conversations import BadConversation, read_conversation

ASKED, ANSWERED = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
EXPECTED = [ASKED, ANSWERED]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": EXPECTED, "source": "x"},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a", "completion": "b"},
        # As a table of several shapes is written.
        {"messages": None, "conversations": None, "prompt": "a", "completion": "b"},
        {"messages": EXPECTED, "prompt": None, "completion": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWERED]},
    ],
)
def test_shapes(record: dict[str, Any]) -> None:
    assert read_conversation(record) == EXPECTED


def test_the_system_speaks_first_and_texts_are_nfc() -> None:
    system = {"role": "system", "content": "s"}
    assert read_conversation({"messages": [system, *EXPECTED, *EXPECTED]}) == [system, *EXPECTED, *EXPECTED]
    shared = {
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        "system": "s",
    }
    assert read_conversation(shared) == [system, *EXPECTED]
    (asked, _) = read_conversation({"prompt": "e\u0301", "completion": "b"})
    assert asked["content"] == "\u00e9"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a"}, "neither messages nor"),
        ({"messages": "a"}, "no list of messages"),
        ({"messages": None, "prompt": "a", "completion": None}, "neither messages nor"),
        ({"messages": [ASKED, {"role": "tool", "content": "x"}, ANSWERED]}, "a role other than"),
        ({"messages": [ASKED, ASKED, ANSWERED]}, "roles out of order"),
        ({"messages": [ANSWERED, ASKED]}, "roles out of order"),
        ({"messages": [*EXPECTED, {"role": "system", "content": "s"}]}, "roles out of order"),
        ({"messages": [ASKED]}, "no answer at the end"),
        ({"messages": []}, "no message of the user"),
        ({"messages": [ASKED, {"role": "assistant", "content": " \n"}]}, "an empty answer"),
        ({"messages": [{"role": "user", "content": ""}, ANSWERED]}, "an empty message of the user"),
        ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "no text"),
        ({"messages": [ASKED, {"role": "assistant", "content": "\ud800"}]}, "surrogate"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED]}, "no text"),
    ],
)
def test_refusals(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadConversation, match=reason):
        read_conversation(record)
