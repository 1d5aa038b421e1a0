"""What the files beside tokenizer.json say of its tokens, read as transformers reads them.

tokenizer_config.json names the special tokens and lists added tokens by their ids (``added_tokens_decoder``).
Where it has no such list, the files of older releases are read too: special_tokens_map.json, whose names take
precedence, and added_tokens.json. A named or listed token that tokenizer.json lacks is added to what it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recipes.data.tokenizer.file_names import NAMING_FILES
from recipes.errors import UserError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_CONFIG, _MAP, _ADDED = NAMING_FILES
_NUMBERING = "generation_config.json"
"""Speaks of ids, belongs to the model, and is asked last."""
_LIST = "added_tokens_decoder"
_STANDARD = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_EXTRA, _EXTRA_BEFORE = "extra_special_tokens", "additional_special_tokens"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids; None where there is no such token."""

    bos: int | None
    eos: int
    pad: int | None


@dataclass(frozen=True)
class TokenSettings:
    """The tokens that the files name and list."""

    names: dict[str, AddedToken]
    """``eos_token`` and the like, the standard ones first."""
    listed: dict[int, AddedToken]
    """By the ids that the files give them, those of tokenizer.json included if it was asked for."""
    extra: list[AddedToken]
    """Special tokens without a name."""
    fallback: dict[str, AddedToken]
    """Names that transformers does not read; of them counts the end of a document, which there must be."""

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Adds what is missing under the ids that transformers gives it: the next ones, not the list's."""
        named = {token.content for token in self.names.values()}
        tokens = [self.listed[number] for number in sorted(self.listed)]
        for token in tokens:
            token.special = token.special or token.content in named
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        known |= {token.content for token in tokens}
        for token in (*self.names.values(), *self.extra):
            if token.content not in known:
                tokens.append(token)
                known.add(token.content)
        tokenizer.add_tokens(tokens)

    def find(self, contents: Mapping[str, bytes], vocabulary: Mapping[str, int], name: str) -> SpecialTokens:
        """The ids of what begins, ends and pads documents.

        The end of a document is the tokenizer's own ``eos_token``. For a tuned chat model that is the end of
        a turn (Llama 3's ``<|eot_id|>``); the directory of its base model names the end of a text.

        Raises:
            UserError: no file names an end of document.
        """
        numbered = _document(contents, _NUMBERING, name)

        def find(kind: str) -> int | None:
            for names in (self.names, self.fallback if kind == "eos" else {}):
                token = names.get(f"{kind}_token")
                if token is not None and token.content in vocabulary:
                    return vocabulary[token.content]
            return _number(numbered.get(f"{kind}_token_id"), vocabulary)

        eos = find("eos")
        if eos is None:
            raise UserError(
                f'{name} names no end-of-document token, which must end every document: add "eos_token" to '
                "its tokenizer_config.json"
            )
        return SpecialTokens(bos=find("bos"), eos=eos, pad=find("pad"))


def token_settings(contents: Mapping[str, bytes], stored: Any, name: str) -> TokenSettings:
    """Reads the files.

    Args:
        contents: of the directory, by name.
        stored: the ``added_tokens`` of tokenizer.json.
        name: how messages call the tokenizer.

    Raises:
        UserError: a file is damaged.
    """
    config = _document(contents, _CONFIG, name)
    older = _document(contents, _MAP, name)
    where = f"{name}: {_CONFIG}"
    standard, own = _names(config, where)
    # Of two files that know a name of the model's own, tokenizer_config.json decides if it writes the text.
    firm = {key: token for key, token in own.items() if isinstance(config[key], str)}
    extra, groups = _unnamed(config, where)
    firm |= groups
    if _LIST in config:
        listed = _by_id(_object(config[_LIST], f"{where}: {_LIST}"), where)
        fallback = _names(older, f"{name}: {_MAP}")[0]
        return TokenSettings(standard | own | firm, listed, extra or [], fallback)
    map_standard, map_own = _names(older, f"{name}: {_MAP}", objects=True)
    map_extra, map_groups = _unnamed(older, f"{name}: {_MAP}")
    standard = {
        key: token for key, token in standard.items() if older.get(key, "") is not None
    } | map_standard
    if _EXTRA in older:
        extra = [*(extra or []), *(map_extra or [])]
    special = {token.content for token in (*standard.values(), *(extra or []))}
    extra = map_extra if extra is None else extra
    listed = {}
    for content, number in _document(contents, _ADDED, name).items():
        if type(number) is not int or number < 0:
            raise UserError(f"{name}: {_ADDED}: {content[:60]!r} has no id")
        flags = {"special": content in special, "normalized": content not in special}
        listed[number] = _token({"content": content, **flags}, f"{name}: {_ADDED}")
    # An id that two files speak of is tokenizer.json's.
    for entry in stored if isinstance(stored, list) else []:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            listed[entry["id"]] = _token(entry, name)
    names = _in_order(standard) | own | map_own | firm | map_groups
    return TokenSettings(names, listed, extra or [], fallback={})


def random_settings(contents: Mapping[str, bytes], name: str) -> list[str]:
    """What tokenizer_config.json says that would make SentencePiece draw one of several segmentations."""
    settings = _document(contents, _CONFIG, name).get("sp_model_kwargs")
    if not isinstance(settings, dict) or not settings.get("enable_sampling"):
        return []
    return ["sp_model_kwargs.enable_sampling"]


def json_object(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object from a stranger.

    Raises:
        UserError: it is none.
    """
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not readable as JSON: {str(error)[:100]}") from None
    if not isinstance(document, dict):
        raise UserError(f"{name} holds no JSON object")
    return document


def _document(contents: Mapping[str, bytes], file: str, name: str) -> dict[str, Any]:
    return json_object(contents[file], f"{name}: {file}") if file in contents else {}


def _names(
    document: Mapping[str, Any], where: str, objects: bool = False
) -> tuple[dict[str, AddedToken], dict[str, AddedToken]]:
    """Special tokens by the names that every model has, and by names of the model's own; with ``objects``
    also where an object does not call itself a token."""
    standard, own = {}, {}
    for key, value in document.items():
        if not key.endswith("_token") or (token := _special(value, where)) is None:
            continue
        if key in _STANDARD:
            standard[key] = token
        elif objects or isinstance(value, str) or value.get("__type") == "AddedToken":
            own[key] = token
    return _in_order(standard), own


def _unnamed(
    document: Mapping[str, Any], where: str
) -> tuple[list[AddedToken] | None, dict[str, AddedToken]]:
    """Special tokens without a name, None where the file says nothing of them; or with one in their list."""
    if _EXTRA not in document and _EXTRA_BEFORE not in document:
        return None, {}
    extra = document.get(_EXTRA) or document.get(_EXTRA_BEFORE) or []
    if isinstance(extra, dict):
        return [], {key: token for key, value in extra.items() if (token := _special(value, where))}
    if not isinstance(extra, list):
        raise UserError(f"{where}: {_EXTRA} is no list of tokens")
    return [token for value in extra if (token := _special(value, where)) is not None], {}


def _in_order(names: dict[str, AddedToken]) -> dict[str, AddedToken]:
    """The order decides which of two new tokens gets which id."""
    return {key: names[key] for key in _STANDARD if key in names}


def _by_id(document: Mapping[str, Any], where: str) -> dict[int, AddedToken]:
    found = {}
    for number, token in document.items():
        if not re.fullmatch(r"[0-9]{1,10}", number) or not isinstance(token, dict):
            raise UserError(f"{where}: {_LIST}: {number[:60]!r} is no id with a token")
        found[int(number)] = _token(token, where)
    return found


def _special(value: Any, where: str) -> AddedToken | None:
    """A special token is written as its text, or as an object with settings of the text's recognition."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return _token({**value, "special": True}, where) if value["content"] else None
    return _token({"content": value, "special": True}, where) if isinstance(value, str) and value else None


def _token(fields: Mapping[str, Any], where: str) -> AddedToken:
    from tokenizers import AddedToken

    content = fields.get("content")
    flags = {key: fields[key] for key in _FLAGS if key in fields}
    try:
        return AddedToken(content, **flags)
    except (TypeError, UnicodeEncodeError):
        raise UserError(f"{where}: {str(content)[:60]!r} is no token, or a setting of it is none") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is no JSON object")
    return value


def _number(value: Any, vocabulary: Mapping[str, int]) -> int | None:
    """Of several ends, tuned models have many, the first."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if type(value) is int and value in vocabulary.values() else None
