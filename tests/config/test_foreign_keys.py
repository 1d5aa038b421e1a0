"""Hints for people from elsewhere lead to settings that exist."""

from __future__ import annotations

import pytest

from recipes.config.explain import known_key, no_such_key
from recipes.config.foreign_keys import FOREIGN, FOREIGN_VALUES
from recipes.config.jobs import SCHEMAS
from recipes.config.meanings import settings_of

ALL = [(job, key) for job, table in FOREIGN.items() for key in table]


@pytest.mark.parametrize(("job", "key"), ALL)
def test_the_hint_is_shown_and_leads_somewhere(job: str, key: str) -> None:
    foreign = FOREIGN[job][key]
    assert known_key(job, key) is None, "it is one of ours, so the hint is never shown"
    message = no_such_key(job, f"model.{key}")
    assert message.startswith(f"model.{key}: there is no such key") and "\n" not in message
    if foreign.ours is None:
        assert message.endswith(f"nothing to set: {foreign.note}")
    else:
        assert foreign.ours in settings_of(SCHEMAS[job])
        assert f"here it is {foreign.ours}: " in message and not message.endswith(": ")


def test_values_lead_to_ours() -> None:
    ours = {"bf16", "fp16", "fp32", "adamw", "cosine", "swiglu", "squared_relu", "LayerNorm"}
    assert set(FOREIGN_VALUES.values()) == ours
