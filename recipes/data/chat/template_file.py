"""Where a chat template is written: in a file of its own, or in a tokenizer's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.data.chat.template import DEFAULT
from recipes.data.tokenizer.file_names import CHAT_TEMPLATE, TOKENIZER_CONFIG
from recipes.data.tokenizer.special_tokens import json_object
from recipes.data.tokenizer.tokenizer_files import LARGEST_TOKENIZER, read_whole
from recipes.errors import UserError

LARGEST_TEMPLATE = 1_000_000
SETTING = "chat_template"
"""In tokenizer_config.json, where transformers before 4.43 keeps the template."""


def template_text(path: str | None, tokenizer: str | Path) -> str:
    """The named template; without a name that of the tokenizer's directory, else the default.

    Raises:
        UserError: it cannot be read.
    """
    if path is not None:
        return _text(Path(path))
    directory = Path(tokenizer)
    if directory.suffix == ".json":  # A tokenizer.json is read with what lies beside it.
        directory = directory.parent
    if (directory / CHAT_TEMPLATE).is_file():
        return _text(directory / CHAT_TEMPLATE)
    settings = directory / TOKENIZER_CONFIG
    if not settings.is_file():
        return DEFAULT
    fields = json_object(read_whole(settings, LARGEST_TOKENIZER), str(settings))
    found = default_template(fields.get(SETTING), str(settings))
    return DEFAULT if found is None else found


def default_template(setting: Any, name: str) -> str | None:
    """The one that transformers would use, of what tokenizer_config.json holds; None: there is none.

    Args:
        setting: one template, or several with their names.
        name: of the file, for messages.

    Raises:
        UserError: it is no text.
    """
    if isinstance(setting, list):
        named = {entry.get("name"): entry.get("template") for entry in setting if isinstance(entry, dict)}
        setting = named.get("default")
    if setting is not None and not isinstance(setting, str):
        raise UserError(f"{name}: its {SETTING} is no text")
    return setting


def _text(file: Path) -> str:
    content = read_whole(file, LARGEST_TEMPLATE, "chat template")
    try:
        return content.decode("utf-8-sig")  # A byte order mark is not the template's.
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8") from None
