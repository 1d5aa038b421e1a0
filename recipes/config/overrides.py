"""Hydra's overrides as a user types them: text need not be quoted for Hydra's grammar.

Hydra's lexer accepts neither letters beyond ASCII nor ``=`` in a value, and reads ``name=2024_01`` as a
number. For keys that the schema declares as text, such values are quoted here before Hydra sees them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf, StringNode

from recipes.counts import IN_GROUPS
from recipes.errors import UserError

# Prompts and stop strings are literal text: "${x}" in them is not an interpolation.
LITERAL_LISTS = ("prompts", "end_strings")
# data.train.NAME.path. OmegaConf has no such type, so the schema has Any there.
TEXT_OR_LIST = "path"
# Its tokens can be any text, which Hydra does not accept as keys of a mapping: read as YAML later.
MAPPING_OF_TEXTS = "logit_bias"
_ESCAPABLE = re.compile(r"(\\*)\$\{")
# What is a list already, or nothing.
_WHOLE_LIST = re.compile(r"\[|null$|$")
# An interpolation, or one of Hydra's functions: choice(...), glob(...).
_STANDS_FOR_A_LIST = re.compile(r"\$\{|\w+\(.*\)$")
_PREFIX = re.compile(r"(\+\+|\+)?([^=]*)")
# Of a list without lists or mappings in it.
_ELEMENT = re.compile(r"""(?:\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,\\'"])+""", re.DOTALL)


def quote_text(arguments: Iterable[str], schema: type) -> list[str]:
    """The arguments of a job, with the values of text keys quoted where Hydra would misread them.

    Words for a list of text become that list; a prompt is one text, commas included.

    Raises:
        UserError: Hydra cannot read a value, and its key is not text; the message says how to quote it.
    """
    arguments = list(arguments)
    sweep = is_sweep(arguments)
    return [_quoted(argument, schema, sweep) for argument in arguments]


def is_sweep(arguments: Iterable[str]) -> bool:
    """Whether the arguments ask for a sweep, in which a comma separates runs."""
    return any(argument in ("-m", "--multirun") for argument in arguments)


def _quoted(argument: str, schema: type, sweep: bool) -> str:
    if argument.startswith(("-", "~")) or "=" not in argument or argument.startswith("hydra."):
        return argument
    match = _PREFIX.match(argument)
    assert match is not None
    key, value = match[2], argument[match.end() + 1 :]
    kind = _kind_of(schema, key.split("."))
    is_text = kind is str or set(get_args(kind)) == {str, type(None)}
    is_text |= kind is Any and key.rpartition(".")[2] == TEXT_OR_LIST and not value.startswith("[")
    if not sweep and int in (kind, *get_args(kind)) and IN_GROUPS.fullmatch(value):
        return f"{match[0]}={value.replace(',', '')}"  # As messages show numbers.
    is_literal = key.rpartition(".")[2] in LITERAL_LISTS
    if kind == list[str] and not _WHOLE_LIST.match(value):
        if (text := _in_quotes_already(match[0], value)) is not None:
            if is_literal:
                return f"{match[0]}=[{_ESCAPABLE.sub(_escaped, value)}]"
            value = text
        if is_literal and not sweep:
            return f"{match[0]}=[{in_quotes(_ESCAPABLE.sub(_escaped, value))}]"
        if not _STANDS_FOR_A_LIST.match(value):
            return f"{match[0]}={_as_list(value, sweep)}"
    if is_literal:
        argument = f"{match[0]}={_ESCAPABLE.sub(_escaped, value)}"
    parsed = _parsed(argument)
    if parsed is None:
        if is_text or key.rpartition(".")[2] == MAPPING_OF_TEXTS:
            return f"{match[0]}={in_quotes(value)}"
        raise UserError(
            f"{key}={value}: cannot be read; put text with special characters in quotes within the quotes, "
            f'for example \'{key}=["...","..."]\' for a list'
        )
    if kind == list[str] and isinstance(elements := parsed.value(), list):
        return _with_texts(argument, key, value, elements)
    # A number where the schema has text: 2024_01 would become 202401.
    if is_text and isinstance(parsed.value(), bool | int | float):
        return f"{match[0]}={in_quotes(value)}"
    return argument


def _parsed(argument: str) -> Override | None:
    """What Hydra makes of an argument; None: nothing."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _in_quotes_already(prefix: str, value: str) -> str | None:
    """The text that a value in quotes stands for; None: its quotes, if any, belong to the text."""
    if value[:1] not in ("'", '"') or (parsed := _parsed(f"{prefix}={value}")) is None:
        return None
    quoted = parsed.value()
    return quoted if isinstance(quoted, str) and value[-1] == value[0] else None


def _with_texts(argument: str, key: str, value: str, elements: list[Any]) -> str:
    """A list of text, in which Hydra would take ``007`` and ``true`` for something else.

    Raises:
        UserError: an element is no text at all.
    """
    for element in elements:
        if element is None or isinstance(element, list | dict):
            shown = "null" if element is None else element
            raise UserError(f"{key}={value}: {shown} is no text; put text in quotes within the quotes")
    if not any(isinstance(element, bool | int | float) for element in elements):
        return argument
    written = [word.strip() for word in _ELEMENT.findall(argument[argument.index("=") + 1 :].strip()[1:-1])]
    if len(written) != len(elements):  # Something with commas of its own, such as an interpolation.
        return argument
    texts = [
        in_quotes(word) if isinstance(element, bool | int | float) else word
        for word, element in zip(written, elements, strict=True)
    ]
    return f"{argument[: argument.index('=')]}=[{','.join(texts)}]"


def in_quotes(value: str) -> str:
    """`value` quoted for Hydra's grammar: quotes inside, and backslashes before a quote, are escaped."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value) + "'"


def _escaped(match: re.Match[str]) -> str:
    """A literal ``${`` in OmegaConf's grammar."""
    return 2 * match[1] + "\\${"


def _as_list(words: str, sweep: bool) -> str:
    """``tasks=arc_easy,hellaswag``: one list of words or, in a sweep, a list of one word for each run."""
    quoted = [in_quotes(word.strip()) for word in words.split(",")]
    return ",".join(f"[{word}]" for word in quoted) if sweep else f"[{','.join(quoted)}]"


def _kind_of(schema: type, path: list[str]) -> Any:
    """The type that the schema declares for a key; None if it has no such key."""
    kind: Any = schema
    for part in path:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            return None
    return kind


def refuse_empty_mappings(arguments: Iterable[str], composed: DictConfig) -> None:
    """Refuses ``data.valid={}`` where there are entries: Hydra adds what is given, here nothing.

    Raises:
        UserError: with the way to remove them.
    """
    for argument in arguments:
        match = _PREFIX.match(argument)
        if argument.startswith(("-", "~")) or match is None or argument[match.end() :] != "={}":
            continue
        entries = OmegaConf.select(composed, match[2])
        if isinstance(entries, DictConfig) and entries and OmegaConf.get_type(entries) is dict:
            away = " ".join(f"~{match[2]}.{name!s}" for name in entries)
            raise UserError(f"{match[2]}={{}}: would change nothing: entries stay until removed, {away}")


def keep_literal(node: DictConfig) -> None:
    """Makes OmegaConf read literal texts without interpolation, wherever they came from."""
    for key in list(node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            keep_literal(child)
        elif key in LITERAL_LISTS and isinstance(child, ListConfig) and child._content is not None:
            for number in range(len(child)):
                item: Any = child._get_node(number)
                text = item._value() if isinstance(item, StringNode | AnyNode) else None
                if isinstance(text, str):
                    item._val = _ESCAPABLE.sub(lambda m: m[0] if len(m[1]) % 2 else _escaped(m), text)
