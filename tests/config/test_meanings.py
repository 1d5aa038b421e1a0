"""Every setting says what it means, wherever it is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from recipes.config.hydra_app import compose
from recipes.config.jobs import SCHEMAS
from recipes.config.meanings import settings_of
from recipes.config.meanings_text import asked_meaning, markdown
from recipes.errors import UserError
from tests.support.paths import ROOT
from tests.support.spy import ENGINE, spy


@pytest.mark.parametrize("job", SCHEMAS)
def test_every_key_and_every_group_has_a_meaning(job: str) -> None:
    assert [each.key for each in settings_of(SCHEMAS[job]).values() if not each.meaning] == []


@dataclass
class Entry:
    """An entry.

    More about it.
    """

    path: str = "???"
    """PREFIX.
    Second line."""


@dataclass
class Example:
    plain: int = 2000
    text: str | None = None
    """Text; None: nothing."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """Of entries."""
    group: Entry = field(default_factory=Entry)
    last: tuple[float, float] = (0.9, 0.95)


def test_what_is_read_from_a_schema() -> None:
    assert [tuple(each) for each in settings_of(Example).values()] == [
        ("plain", "whole number", "2,000", ""),
        ("text", "text or null", "null", "Text; null: nothing."),
        ("entries", "name: settings", "{}", "Of entries."),
        ("entries.<name>.path", "text", "", "PREFIX. Second line."),
        ("group", "", "", "An entry."),
        ("group.path", "text", "", "PREFIX. Second line."),
        ("last", "2 x number", "[0.9, 0.95]", ""),
    ]
    assert settings_of(Example)["text"].summary == "Text"


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == markdown(), "run python -m tools.settings > docs/settings.md"


def test_help_of_a_key() -> None:
    key, group = spy(
        ["recipes.pretrain", "help=trainer.compile"], ["recipes.pretrain", "help=trainer.checkpoint"]
    )
    assert (key.code, key.err, key.imported & ENGINE) == (0, "", set())
    assert key.out.startswith("trainer.compile (true or false or text; default auto)\n    torch.compile")
    assert group.out.startswith("trainer.checkpoint: When training checkpoints are written")
    assert "trainer.checkpoint.keep_last (whole number; default 2)" in group.out
    assert asked_meaning("pretrain", ["help=optim.lr"]) == (
        "optim.lr (number; set by optim=...)\n    Peak learning rate; with muon, of the matrices."
    )
    assert asked_meaning("pretrain", ["name=help"]) is None
    with pytest.raises(UserError, match=r"lr: there is no such key; did you mean optim\.lr\?"):
        asked_meaning("pretrain", ["help=lr"])


def test_a_refused_value_says_what_the_key_means() -> None:
    message = re.escape("optim.lr=fast: must be a number (Peak learning rate; with muon, of the matrices)")
    with pytest.raises(UserError, match=f"^{message}$"):
        compose("pretrain", ["name=x", "optim.lr=fast"])
