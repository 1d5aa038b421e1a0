"""Which of a Hugging Face tokenizer's tokens begin and end documents."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipes.errors import UserError

# In the order in which they are asked; the last, which speaks of ids, belongs to the model.
_NAMING = ("tokenizer_config.json", "special_tokens_map.json")
_NUMBERING = "generation_config.json"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids; None where there is no such token."""

    bos: int | None
    eos: int
    pad: int | None


def special_tokens(contents: Mapping[str, bytes], vocabulary: Mapping[str, int], name: str) -> SpecialTokens:
    """Reads the files beside tokenizer.json.

    The end of a document is the tokenizer's own ``eos_token``. For a tuned chat model that is the end of a
    turn (Llama 3's ``<|eot_id|>``); the directory of its base model names the end of a text.

    Raises:
        UserError: no file names an end of document, or a token is named that does not exist.
    """
    documents = {file: json_object(contents[file], f"{name}: {file}") for file in _NAMING if file in contents}
    numbered = json_object(contents[_NUMBERING], f"{name}: {_NUMBERING}") if _NUMBERING in contents else {}

    def find(kind: str) -> int | None:
        for file, document in documents.items():
            token = _content(document.get(f"{kind}_token"))
            if token is None:
                continue
            if token not in vocabulary:
                raise UserError(f"{name}: {file}: {kind}_token={token!r} is none of its tokens")
            return vocabulary[token]
        return _number(numbered.get(f"{kind}_token_id"), vocabulary)

    eos = find("eos")
    if eos is None:
        raise UserError(
            f'{name} names no end-of-document token, which must end every document: add "eos_token" to its '
            "tokenizer_config.json"
        )
    return SpecialTokens(bos=find("bos"), eos=eos, pad=find("pad"))


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


def _content(token: Any) -> str | None:
    """A token is written as its text, or as an object with settings of the text's recognition."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _number(value: Any, vocabulary: Mapping[str, int]) -> int | None:
    """Of several ends, tuned models have many, the first."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if type(value) is int and value in vocabulary.values() else None
