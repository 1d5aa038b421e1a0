"""What must not be published: paths and names of this machine, and secrets; cleaned, or refused."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from recipes.checkpoint.formats.archive import checked_members, open_archive
from recipes.code_version import ROOT
from recipes.errors import UserError

# Not after a letter, a colon or another slash, which are parts of URLs and relative paths.
ABSOLUTE = re.compile(r"(?<![\w.:/$}{<>~@%!-])(?:~|(?=/))(?:/[\w.+@-]+){2,}/?")
SECRET_KEY = re.compile(
    r"(?i)(?:^|_)(?:password|passwd|secret|credentials?|api_?key|private_key|(?:access|auth|hf|api)_?token)$"
)
SECRETS = {
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})"),
    "an OpenAI key": re.compile(rb"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(rb"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"),
}
# Words that say nothing about a machine.
COMMON = {"root", "user", "users", "admin", "home", "localhost", "ubuntu", "debian", "param", "nemo", "model"}
LEAST_LETTERS = 4
TEXT = (".md", ".yaml", ".json", ".sh", ".svg", ".jinja", ".py", ".txt")
# Their words are the training text's, in which a path may well stand.
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")
BLOCK = 2**22


@dataclass(frozen=True)
class Machine:
    """What tells where a run was made."""

    paths: frozenset[str]
    """Directories, absolute and of two parts at least: looked for in every byte."""
    names: frozenset[str] = field(default_factory=frozenset)
    """Of the host and the user: looked for in texts."""


def this_machine(directories: Iterable[Path], *, known: str = "") -> Machine:
    """This machine's names and directories.

    Args:
        directories: of the run and of the release.
        known: a text that is published as it is, such as the model's name; its words are no secret.
    """
    places = {Path.home(), Path.cwd(), ROOT, *(path.absolute() for path in directories)}
    places |= {path.resolve() for path in places}
    words = {word.lower() for word in re.findall(r"\w+", known)} | COMMON
    names = {socket.gethostname(), socket.gethostname().partition(".")[0], _user()}
    return Machine(
        frozenset(str(path) for path in places if len(path.parts) > 2),
        frozenset(name for name in names if len(name) >= LEAST_LETTERS and name.lower() not in words),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A container's user may have no name.
        return ""


def publishable(value: Any) -> Any:
    """A configuration with absolute paths reduced to their last part, and without keys that hold secrets."""
    if isinstance(value, Mapping):
        return {
            key: publishable(part)
            for key, part in value.items()
            if not (isinstance(key, str) and SECRET_KEY.search(key) and part)
        }
    if isinstance(value, list | tuple):
        return [publishable(part) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~/")) and "\n" not in value:  # A path as a whole, whatever it is made of.
        return PurePosixPath(value).name or "."
    return ABSOLUTE.sub(lambda found: PurePosixPath(found[0]).name, value)


def refuse_private(folder: Path, machine: Machine) -> None:
    """Looks through every file of a folder.

    Raises:
        UserError: one names a path or a name of the machine, or holds what looks like a secret.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            for what in _found_in(path, machine):
                raise UserError(
                    f"{path.relative_to(folder)} holds {what}, which would be published; nothing was released"
                )


def _found_in(path: Path, machine: Machine) -> Iterator[str]:
    yield from _literals_in(path, [name.encode() for name in machine.paths])
    for name, content in _texts_in(path):
        for what, pattern in SECRETS.items():
            if found := pattern.search(content):
                line = content.count(b"\n", 0, found.start()) + 1
                yield f"what looks like {what} ({name}, line {line:,})"
        text = content.decode("utf-8", "replace")
        if PurePosixPath(name).name not in VOCABULARIES and (absolute := ABSOLUTE.search(text)):
            yield f"the path {absolute[0]}"
        for word in sorted(machine.names):
            if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text):
                yield f"this machine's host or user name, {word}"


def _literals_in(path: Path, literals: Sequence[bytes]) -> Iterator[str]:
    """In blocks: the files of weights are large."""
    longest = max(map(len, literals), default=0)
    before = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            for literal in literals:
                # The beginning of a longer name is something else.
                if re.search(re.escape(literal) + rb"(?![\w-])", before + block):
                    yield f"the path {literal.decode()}"
            before = block[-longest:] if longest else b""


def _texts_in(path: Path) -> Iterator[tuple[str, bytes]]:
    """A text file, or the text files in an archive, with their names."""
    if path.suffix in TEXT:
        yield path.name, path.read_bytes()
    elif path.suffix == ".nemo":
        with open_archive(path) as archive:
            for member in checked_members(archive, str(path)):
                if PurePosixPath(member.name).suffix in TEXT and (file := archive.extractfile(member)):
                    yield member.name, file.read()
