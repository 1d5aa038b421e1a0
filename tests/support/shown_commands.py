"""The commands that pages, docstrings and help texts show: where they stand, and which words they have."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

PROGRAMS = (
    r"(?:\S*/)?python -m|torchrun(?=.* (?:-m|\.\.\.))|\./nemo_inference\.sh"
    r"|make(?= [a-z-]+$)|pip(?= install)|sbatch(?=.* (?:docker/|--wrap))|bash(?= docker/)"
    r"|curl(?= .*127\.0\.0\.1)"
)
SETTING = r"""[A-Za-z_]\w*=(?:"[^"]*"|'[^']*'|\S)*"""
BEGINNING = re.compile(rf"(?:^|: |\$ |\bdo |\bif |&& )((?:{SETTING}\s+)*(?:{PROGRAMS})(?=\s).*)", re.DOTALL)
"""A command where one can stand: at the beginning of a line, after a prompt, a colon, or another command."""
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
BETWEEN = ("|", "&&", "||", ";")


class Shown(NamedTuple):
    """A command, and the file that shows it."""

    file: str
    text: str
    error: str = ""
    """The refusal that stands below it."""

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


class Words(NamedTuple):
    """A simple command."""

    environment: dict[str, str]
    """What is set before it."""
    program: str
    arguments: list[str]


Found = tuple[str, str]
"""A command and, if one is shown, its refusal."""


def in_markdown(text: str) -> Iterator[Found]:
    """Commands of a page: those in its blocks of code and in `spans`."""
    blocks = [body for language, body in FENCED.findall(text) if language in ("", "bash", "sh", "console")]
    indented = [line for line in _joined(FENCED.sub("", text)).splitlines() if line.startswith("    ")]
    yield from in_lines([*indented, *_joined("\n".join(blocks)).splitlines()])
    yield from _commands(spans_of(text))


def spans_of(page: str) -> list[str]:
    """What stands in `spans` outside of a page's blocks of code."""
    lines = FENCED.sub("", page).splitlines()
    return _spans("\n".join(line for line in lines if not line.startswith("    ")))


def in_text(text: str) -> Iterator[Found]:
    """Commands of a docstring, a help text or a comment, on lines of their own or in spans."""
    yield from in_lines(_joined(text).splitlines())
    yield from _commands(_spans(text))


def in_lines(lines: Iterable[str]) -> Iterator[Found]:
    """Commands on lines of their own, without the comments behind them."""
    for line, following in pairwise([*lines, ""]):
        if "`" not in line and (found := BEGINNING.search(line.strip())):
            refusal = following.strip() if following.strip().startswith("error: ") else ""
            yield re.sub(r"\s+# .*", "", found[1]), refusal


def _spans(text: str) -> list[str]:
    """A span may go over the end of a line."""
    return [" ".join(span.split()) for _, span in SPAN.findall(text)]


def _commands(spans: Iterable[str]) -> Iterator[Found]:
    for span in spans:
        if found := BEGINNING.match(span):
            yield found[1], ""


def _joined(text: str) -> str:
    return re.sub(r"\\\\?\n[ \t#]*", " ", text)


def in_python(source: str) -> Iterator[Found]:
    """Commands of a module's texts; messages with a part that only a run knows are left out."""
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield from in_text(node.value)


def in_comments(text: str) -> Iterator[Found]:
    """Commands of a YAML file or a shell script: in its comments, and in the help text of a YAML file."""
    lines = [line.strip() for line in text.splitlines()]
    yield from in_text(
        "\n".join(line.lstrip("# ") for line in lines if re.match(r"#|\w* *python -m|torchrun", line))
    )


def shown_in(path: Path) -> Iterator[Shown]:
    """The commands that a file shows."""
    text = path.read_text(encoding="utf-8")
    find = {".md": in_markdown, ".py": in_python}.get(path.suffix, in_comments)
    for command, refusal in find(text):
        yield Shown(str(path.relative_to(ROOT)), command, refusal)


def simple_commands(text: str) -> Iterator[Words]:
    """What a line runs, one after the other; redirections are left out.

    Raises:
        ValueError: a quote is not closed.
    """
    text = re.sub(r"<(\w+)>", r"\1", text)  # outputs/<name>
    words: list[str] = []
    for word in [*shlex.split(re.sub(r"(\S);(?=\s|$)", r"\1 ;", text)), ";"]:
        if word in BETWEEN:
            yield from _words(words)
            words = []
        else:
            words.append(word)


def _words(words: list[str]) -> Iterator[Words]:
    words = words[words.index("do") + 1 :] if "do" in words else words
    environment: dict[str, str] = {}
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        name, _, value = words[0].partition("=")
        environment[name] = value
        words = words[1:]
    kept = [
        word
        for number, word in enumerate(words)
        if not re.match(r"\d?[<>]", word) and not (number and re.fullmatch(r"\d?[<>]+", words[number - 1]))
    ]
    if kept:
        yield Words(environment, kept[0], kept[1:])
