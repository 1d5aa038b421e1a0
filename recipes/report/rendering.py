"""HTML pages, pictures and Markdown from templates: one Jinja2 environment.

Everything that is put into HTML and SVG is escaped; nothing in Markdown, where most readers would see it.

The templates of a page lie in the folder `templates` of the package that makes it, and are named by both:
"recipes.report/run.html".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from recipes.files import atomic_write
from recipes.report.figures import format_number

# Control characters that HTML does not allow, and the ones that reorder the text around them.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_DEVANAGARI = re.compile("[\u0900-\u097f\ua8e0-\ua8ff]")


@dataclass(frozen=True)
class Tile:
    """A key figure, with a hint in small type."""

    label: str
    value: str
    hint: str = ""


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Writes the page that `template` makes of `values`, and returns its path.

    Raises:
        UserError: it cannot be written.
    """
    page = render(template, **values)
    # A lone surrogate, from a JSON escape, is no character: it becomes "?".
    with atomic_write(path) as file:
        file.write(page.encode("utf-8", errors="replace"))
    return path


def render(template: str, **values: Any) -> str:
    """The text that `template` makes of `values`."""
    return _ENVIRONMENT.get_template(template).render(**values)


def printable(text: str) -> str:
    """`text` with every character that a page cannot show as itself replaced by U+FFFD."""
    return _CONTROLS.sub("\ufffd", text)


def language_of(text: str) -> str:
    """The `lang` of a text: "hi" if most of its letters are Devanagari, "" where the page's own will do."""
    return "hi" if len(_DEVANAGARI.findall(text)) * 2 > sum(c.isalpha() for c in text) else ""


def _load(name: str) -> str:
    package, _, file = name.rpartition("/")
    return (files(package) / "templates" / file).read_text(encoding="utf-8")


def _finalize(value: Any) -> Any:
    """Comes before escaping, for every value that a template prints; HTML made by macros passes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = Environment(
    loader=FunctionLoader(_load),
    autoescape=lambda name: not str(name).endswith(".md"),
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"number": format_number, "language": language_of}
