"""The .bin/.idx pairs that a source's `path` stands for: one prefix, a list, a glob or a directory.

However many they are, they are one source, in the order of the list and, within a glob or directory, of their
names. No torch here: a run refuses what is missing or mixed before anything heavy is imported.
"""

from __future__ import annotations

import glob
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.data.samples.content import content_key
from recipes.data.samples.indexed import Sidecar, bin_path, check_prefix, idx_path
from recipes.errors import UserError

MOST_DOCUMENTS = 2**31 - 1
"""megatron-core numbers a source's documents with 32 bits."""
_PARTIAL = ".partial"  # what tools.preprocess has not finished
_SHOWN = 3


@dataclass(frozen=True)
class SourceFiles:
    """The checked files of one source, in the order in which they are read."""

    path: str
    """As it was asked for, for messages."""
    files: tuple[Sidecar, ...]

    @property
    def prefixes(self) -> list[str]:
        return [file.prefix for file in self.files]

    @property
    def documents(self) -> int:
        return sum(file.documents for file in self.files)

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    def content(self) -> str:
        """32 hexadecimal digits that change with the content or the order of the files, not with their place.

        Raises:
            UserError: a file cannot be read.
        """
        keys = [content_key(file) for file in self.files]
        return keys[0] if len(keys) == 1 else hashlib.sha256(" ".join(keys).encode()).hexdigest()[:32]


def open_source(path: Any) -> SourceFiles:
    """Checks that all files of a source are there and whole, and made with the same tokenizer.

    Args:
        path: `data.train.NAME.path`: a prefix, glob or directory, or a list of them.

    Raises:
        UserError: nothing matches; a file is missing, damaged or there twice; tokenizers differ.
    """
    prefixes = find_prefixes(path)
    if not prefixes:
        raise UserError("no .bin/.idx pair there: give prefixes of tools.preprocess, or a directory of them")
    if twice := sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        raise UserError(f"{twice[0]} is in it twice: name every file once")
    source = SourceFiles(shown_path(path), tuple(check_prefix(prefix) for prefix in prefixes))
    first: Sidecar | None = None
    for file in source.files:
        if file.tokenizer_sha256 is None:
            continue
        first = first or file
        if file.tokenizer_sha256 != first.tokenizer_sha256:
            raise UserError(f"{file.prefix} was made with another tokenizer than {first.prefix}")
    if source.documents > MOST_DOCUMENTS:
        raise UserError(
            f"holds {source.documents:,} documents, a source can have {MOST_DOCUMENTS:,}: make several "
            "sources of it, with weights in proportion to their tokens"
        )
    return source


def find_prefixes(path: Any) -> list[str]:
    """The prefixes that a path stands for; none if nothing matches. A plain prefix is not looked for.

    Raises:
        UserError: the path is not text or a list of text; a directory holds unfinished work.
    """
    if isinstance(path, list | tuple):
        return [prefix for part in path for prefix in _expand(part)]
    return _expand(path)


def are_there(prefixes: list[str]) -> bool:
    """Whether there are prefixes, and both files of each."""
    return bool(prefixes) and all(bin_path(name).exists() and idx_path(name).exists() for name in prefixes)


def shown_path(path: Any) -> str:
    """A source's path for messages and tables."""
    if not isinstance(path, list | tuple):
        return str(path)
    more = f", ... ({len(path)} paths)" if len(path) > _SHOWN else ""
    return f"[{', '.join(map(str, path[:_SHOWN]))}{more}]"


def _expand(path: Any) -> list[str]:
    if not isinstance(path, str) or not path:
        raise UserError("is not a path: give a prefix, glob or directory, or a list of them")
    if are_there([path]):
        return [path]
    if Path(path).is_dir():
        return _below(Path(path))
    if glob.has_magic(path):
        # Not Path.glob, which refuses absolute patterns.
        return _prefixes(glob.glob(path, recursive=True))  # noqa: PTH207
    return [path]


def _below(directory: Path) -> list[str]:
    unfinished = sorted(directory.rglob(f"*{_PARTIAL}"))
    if unfinished:
        raise UserError(
            f"{unfinished[0]} is unfinished: run tools.preprocess again until it is done, or move it"
        )
    return _prefixes([str(file) for file in directory.rglob("*")])


def _prefixes(names: list[str]) -> list[str]:
    """Of the .bin and .idx files among the names; one that lacks its other half is found, to be refused."""
    files = (Path(name) for name in names)
    halves = {
        str(file.with_suffix(""))
        for file in files
        if file.suffix in (".bin", ".idx") and not any(parent.suffix == _PARTIAL for parent in file.parents)
    }
    return sorted(halves)
