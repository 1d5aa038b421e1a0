"""Where a chat template is looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.data.chat.template import DEFAULT
from recipes.data.chat.template_file import template_text
from recipes.errors import UserError


def test_where_a_template_comes_from(tmp_path: Path) -> None:
    assert template_text(None, tmp_path) == DEFAULT
    settings(tmp_path, "in the settings")
    assert template_text(None, tmp_path) == "in the settings"
    assert template_text(None, tmp_path / "tokenizer.json") == "in the settings"
    (tmp_path / "chat_template.jinja").write_text("beside")
    assert template_text(None, tmp_path) == template_text(None, tmp_path / "tokenizer.json") == "beside"
    (tmp_path / "own.jinja").write_bytes(b"\xef\xbb\xbfown")  # As editors on Windows write it.
    assert template_text(str(tmp_path / "own.jinja"), tmp_path) == "own"
    with pytest.raises(UserError, match="cannot read the chat template"):
        template_text(str(tmp_path / "none.jinja"), tmp_path)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, DEFAULT),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "tool_use", "template": "t"}], DEFAULT),
    ],
)
def test_several_in_the_settings(setting: Any, expected: str, tmp_path: Path) -> None:
    settings(tmp_path, setting)
    assert template_text(None, tmp_path) == expected


def test_no_text(tmp_path: Path) -> None:
    settings(tmp_path, 5)
    with pytest.raises(UserError, match=r"tokenizer_config\.json: its chat_template is no text"):
        template_text(None, tmp_path)


def settings(directory: Path, template: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
