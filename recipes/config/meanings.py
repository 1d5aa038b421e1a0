"""What every setting means: the schema's types, defaults and docstrings, as text for people."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import MISSING

_SUMMARY_END = re.compile(r"\. |; (?:null|0|empty)\b")
_TYPE_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "anything"}


class Setting(NamedTuple):
    """A key of a job, or a group of keys."""

    key: str
    """Entries of dictionaries and lists as <name> and <n>: data.train.<name>.path."""
    kind: str
    """Its type in words; empty for a group."""
    default: str
    """As YAML; empty where there is none."""
    meaning: str
    """Its docstring, on one line."""

    @property
    def summary(self) -> str:
        """The beginning of the meaning, without what null or 0 would mean."""
        return textwrap.shorten(_SUMMARY_END.split(self.meaning)[0].rstrip("."), 95, placeholder=" ...")


@cache
def settings_of(schema: type) -> dict[str, Setting]:
    """Every key and group of a job's schema, in its order."""
    return {setting.key: setting for setting in _walk(schema, "")}


def own_docstrings(schema: type) -> dict[str, str]:
    """Field -> the docstring below it; Python keeps none of them."""
    body = _source(schema)
    found = {}
    for field, docstring in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = ast.literal_eval(docstring.value) if _is_text(docstring) else ""  # type: ignore[attr-defined]
            found[field.target.id] = " ".join(text.split())
    last = body.body[-1]
    if isinstance(last, ast.AnnAssign) and isinstance(last.target, ast.Name):
        found[last.target.id] = ""
    return found


def _source(schema: type) -> ast.ClassDef:
    definition = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return definition


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _walk(schema: type, prefix: str) -> Iterator[Setting]:
    meanings, hints = own_docstrings(schema), get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint, key = hints[field.name], prefix + field.name
        meaning = re.sub(r"\bNone\b", "null", meanings[field.name])  # As YAML and overrides write it.
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield Setting(key, "", "", meaning or _first_paragraph(hint))
            yield from _walk(hint, f"{key}.")
            continue
        yield Setting(key, _in_words(hint), _default(field), meaning)
        entry = get_args(hint)[-1] if get_args(hint) else None
        if isinstance(entry, type) and dataclasses.is_dataclass(entry):
            yield from _walk(entry, f"{key}.<{'name' if get_origin(hint) is dict else 'n'}>.")


def _first_paragraph(schema: type) -> str:
    # Not __doc__: of a class without a docstring, dataclass makes it a signature.
    return " ".join((ast.get_docstring(_source(schema)) or "").split("\n\n")[0].split())


def _in_words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else _in_words(part) for part in parts)
    if origin is tuple:
        return f"{len(parts)} x {_in_words(parts[0])}"
    if origin is list:
        return f"list of {_in_words(parts[0])}"
    if origin is dict:
        return f"name: {_in_words(parts[1])}"
    return _TYPE_NAMES.get(hint, "settings")


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value == MISSING:
        return ""
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, int) and not isinstance(plain, bool):
        return f"{plain:,}"
    text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()
