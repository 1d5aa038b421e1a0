"""What programs of this project print, read off their source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

GAP = "..."
"""Stands in a message for what only a run knows."""
LEAST = 4
"""Characters of a part that tell it from punctuation between two gaps."""


class Call(NamedTuple):
    """A message where it is printed or raised."""

    function: str
    message: str
    place: str


def parts_of(message: str) -> list[str]:
    """What stands between the gaps, without punctuation at its ends, where texts are put together."""
    parts = [part.strip(" :;,.()") for part in message.split(GAP)]
    return [part for part in parts if len(part) >= LEAST]


def source_of(message: str) -> Path | None:
    """A file whose texts hold all parts of a message; it may put them together from several texts."""
    parts = parts_of(message)
    return next((path for path, text in _texts().items() if parts and all(p in text for p in parts)), None)


def calls(rooms: tuple[str, ...], functions: tuple[str, ...]) -> Iterator[Call]:
    """The messages that functions of these names get in the source below these directories."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                    message = _template(node.args[0])
                    if node.func.id in functions and parts_of(message):
                        yield Call(node.func.id, message, f"{path.relative_to(ROOT)}:{node.lineno}")


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return re.sub(r"(\.\.\.)+", GAP, "".join(map(_template, node.values)))
    return GAP


@cache
def _texts() -> dict[Path, str]:
    """All texts of a Python file, a line each; of a shell script, itself."""
    texts = {}
    for path in sorted((ROOT / "recipes").rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts[path] = "\n".join(_template(n) for n in nodes if isinstance(n, ast.Constant | ast.JoinedStr))
    scripts = [path for path in sorted((ROOT / "docker/slurm").iterdir()) if path.is_file()]
    return texts | {path: path.read_text(encoding="utf-8") for path in scripts}
