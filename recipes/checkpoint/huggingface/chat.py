"""A Hugging Face directory's settings for chats: the template, and how and where generation ends.

A SentencePiece model cannot hold them, so they are kept as separate files, in a folder that NeMo's readers
ignore. Nothing in them is executed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer
from recipes.data.chat import template_file
from recipes.data.chat.template_file import SETTING
from recipes.data.tokenizer.file_names import CHAT_TEMPLATE, TOKENIZER_CONFIG
from recipes.data.tokenizer.special_tokens import json_object
from recipes.data.tokenizer.tokenizer_files import LARGEST_TOKENIZER
from recipes.errors import UserError

TEMPLATE, SETTINGS = CHAT_TEMPLATE, TOKENIZER_CONFIG
GENERATION = "generation_config.json"
LARGEST = 1_000_000
"""Bytes of a template, or of generation_config.json; published ones have about ten thousand."""
# Keys that every export writes itself, and keys about the library that wrote the file.
_GENERATION_ALWAYS = {"bos_token_id", "eos_token_id", "pad_token_id", "use_cache"}
_GENERATION_OF_THE_WRITER = {"_from_model_config", "transformers_version"}


def chat_template(files: Mapping[str, Blob]) -> dict[str, bytes]:
    """The template in either form or both: chat_template.jinja, and tokenizer_config.json with nothing else.

    Raises:
        UserError: a file is damaged, or too large.
    """
    kept = {TEMPLATE: files[TEMPLATE].read(LARGEST)} if TEMPLATE in files else {}
    template = _json(files, SETTINGS, LARGEST_TOKENIZER).get(SETTING)
    if template is not None:
        kept[SETTINGS] = dumped({SETTING: template}, files[SETTINGS].name)
    return kept


def default_template(tokenizer: StoredTokenizer) -> str | None:
    """The template that transformers would use; None: there is none.

    Raises:
        UserError: a file is damaged, or too large.
    """
    kept = chat_template({**tokenizer.blobs, **tokenizer.beside})
    if TEMPLATE in kept:
        try:
            return kept[TEMPLATE].decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{TEMPLATE} is not UTF-8: {error.reason}") from None
    return (
        template_file.default_template(json.loads(kept[SETTINGS])[SETTING], SETTINGS)
        if SETTINGS in kept
        else None
    )


def turn_ends(tokenizer: StoredTokenizer) -> frozenset[int]:
    """The ids that end a turn, as generation_config.json says.

    Raises:
        UserError: it is damaged, or too large.
    """
    ends = generation_of(tokenizer).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in ends if type(end) is int)


def kept_beside(tokenizer: StoredTokenizer, eos_id: int) -> dict[str, bytes]:
    """The small files to store with a SentencePiece model; {} if they would only repeat its own ids.

    Raises:
        UserError: a file is damaged, or too large.
    """
    kept = chat_template(tokenizer.beside)
    generation = generation_of(tokenizer)
    more = generation.keys() - _GENERATION_ALWAYS - _GENERATION_OF_THE_WRITER
    if more or generation.get("eos_token_id", eos_id) != eos_id:
        kept[GENERATION] = dumped(generation, GENERATION)
    return kept


def generation_of(tokenizer: StoredTokenizer) -> dict[str, Any]:
    """The generation_config.json that lies with a tokenizer; {} if there is none.

    Raises:
        UserError: it is damaged, or too large.
    """
    return _json({**tokenizer.blobs, **tokenizer.beside}, GENERATION, LARGEST)


def merged_generation(exported: dict[str, Any], found: dict[str, Any], *, same_model: bool) -> dict[str, Any]:
    """generation_config.json for an export.

    Args:
        exported: what the export itself says, with the tokenizer's ids.
        found: the source's generation_config.json.
        same_model: ``found`` belongs to this very model. Otherwise it came with the tokenizer: the export's
            ids take precedence, and every token that ended a turn there still does.
    """
    if same_model:
        merged = {**exported, **found}
    else:
        merged = {**found, **exported}
        ends = found.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if ends and exported.get("eos_token_id") is not None:
            own = exported["eos_token_id"]
            ends = ends if own in ends else [own, *ends]
            merged["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return merged if exported["use_cache"] else {**merged, "use_cache": False}


def dumped(content: dict[str, Any], name: str) -> bytes:
    """JSON text.

    Raises:
        UserError: it is nested too deeply, or too large.
    """
    try:
        text = json.dumps(content, indent=2).encode() + b"\n"
    except RecursionError:
        raise UserError(f"{name} is nested too deeply") from None
    if len(text) > LARGEST:
        raise UserError(f"{name} would have {len(text):,} bytes; no such file has more than {LARGEST:,}")
    return text


def _json(files: Mapping[str, Blob], name: str, limit: int) -> dict[str, Any]:
    return json_object(files[name].read(limit), files[name].name) if name in files else {}
