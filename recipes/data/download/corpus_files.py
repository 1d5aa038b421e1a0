"""The files of a corpus, in a fixed order: on the hub, on a web server, in a mirror, or the user's own."""

import glob
import gzip
import lzma
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast

from recipes.checks import refuse
from recipes.counts import counted
from recipes.data.download.corpora import CorpusSource
from recipes.data.text.compression import COMPRESSED, damaged, open_stream
from recipes.errors import UserError

_FORMATS = ("parquet", "jsonl", "txt")


@dataclass(frozen=True)
class DataFile:
    """One file.

    Args:
        name: its path in the repository, or as the user gave it; used in messages and ids only.
        size: bytes as stored.
        open: opens the stored bytes, seekable.
        path: where it is, if on this machine.
        modified: when it last changed, in nanoseconds; only for the user's own files.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]
    path: Path | None = None
    modified: int | None = None

    @property
    def format(self) -> str:
        """parquet, jsonl or txt.

        Raises:
            UserError: the name has none of these suffixes (or is a compressed parquet file).
        """
        name = self.name
        for suffix in (*COMPRESSED, ".xz"):
            if name.endswith(suffix):
                name = name.removesuffix(suffix)
                break
        suffix = name.rpartition(".")[2]
        if suffix not in _FORMATS or (suffix == "parquet" and name != self.name):
            known = f"{', '.join('.' + one for one in _FORMATS)}, text also with {', '.join(COMPRESSED)}, .xz"
            raise UserError(f"{self.name}: unknown kind of file (known: {known})")
        return suffix

    def identity(self) -> dict[str, object]:
        """What must not change between a run and the one that continues it."""
        changed = {} if self.modified is None else {"modified": self.modified}
        return {"name": self.name, "bytes": self.size, **changed}

    def open_text(self) -> tuple[BinaryIO, Callable[[], int]]:
        """The content, decompressed according to its name, and a function that counts the stored bytes read.

        The content can only be read forward. For .zst and .bz2 the count stays 0.
        """
        if self.name.endswith((".zst", ".bz2")):
            if self.path is None:
                raise UserError(f"{self.name}: remote files are read as they are, or from .gz and .xz")
            return open_stream(self.path), lambda: 0
        stream = self.open()
        if self.name.endswith(".gz"):
            return cast(BinaryIO, gzip.GzipFile(fileobj=stream)), stream.tell
        if self.name.endswith(".xz"):
            return cast(BinaryIO, lzma.LZMAFile(stream)), stream.tell
        return stream, stream.tell

    def damaged(self, error: Exception) -> UserError:
        """The error that reading damaged content raised, as a message for the user."""
        return damaged(self.name, error)


@dataclass(frozen=True)
class Listing:
    """A corpus's files, and their version as far as it is known.

    Args:
        origin: where they are read from: an address, `mirror` or `local`.
        revision: the commit on the hub, a web server's ETag or date, or None if unknown.
        files: in reading order.
    """

    origin: str
    revision: str | None
    files: list[DataFile]


def wanted(source: CorpusSource, names: Sequence[str], only: str | None) -> list[str]:
    """The names of a corpus's data files, sorted.

    Raises:
        UserError: there are none.
    """
    ours = sorted(name for name in names if fnmatchcase(name, source.pattern))
    if not ours:
        raise UserError(f"{source.name}: no file {source.pattern} in {source.repo}/{source.directory}")
    if only is None:
        return ours
    chosen = [name for name in ours if fnmatchcase(name, only)]
    if not chosen:
        refuse("--files", only, f"matches none of {counted(len(ours), 'file')} (the first: {ours[0]})")
    return chosen


def mirror_listing(source: CorpusSource, mirror: Path, only: str | None) -> Listing:
    """The files of a corpus in a mirror: `MIRROR/<owner>/<name>/...` as on the hub, or `MIRROR/<host>/...`.

    Raises:
        UserError: the mirror does not have them.
    """
    if source.repo is None:
        path = mirror / source.file_url.partition("://")[2]
        if not path.is_file():
            refuse("--mirror", mirror, f"{path} is missing (it is a copy of {source.file_url})")
        return Listing("mirror", None, [_local(path, path.name)])
    root = mirror / source.repo
    if not (root / source.directory).is_dir():
        refuse(
            "--mirror", mirror, f"{root / source.directory} is missing (a copy of {source.repo} on the hub)"
        )
    names = [
        path.relative_to(root).as_posix()
        for path in (root / source.directory).rglob("*")
        if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
    ]
    chosen = wanted(source, names, only)
    return Listing("mirror", _noted_commit(root, chosen), [_local(root / name, name) for name in chosen])


def local_listing(patterns: Sequence[str]) -> Listing:
    """The user's files in the order given; those of one glob are sorted.

    Raises:
        UserError: a pattern matches no file, or a file is a directory, named twice or of an unknown kind.
    """
    if not patterns:
        raise UserError("local needs files: paths or globs after the source's name")
    names: list[str] = []
    for pattern in patterns:
        # A name with brackets may be that of a file. Path.glob does not accept absolute patterns.
        exists = Path(pattern).exists()
        found = [pattern] if exists else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not found:
            raise UserError(f"{pattern}: no such file")
        names += found
    for name in names:
        if Path(name).is_dir():
            raise UserError(f"{name} is a directory: name its files, as in {name.rstrip('/')}/*.jsonl")
        if names.count(name) > 1:
            raise UserError(f"{name} is named twice")
    files = [_local(Path(name), name, Path(name).stat().st_mtime_ns) for name in names]
    for file in files:
        _ = file.format
    return Listing("local", None, files)


def _local(path: Path, name: str, modified: int | None = None) -> DataFile:
    return DataFile(name, path.stat().st_size, lambda: path.open("rb"), path, modified)


def _noted_commit(root: Path, names: Sequence[str]) -> str | None:
    """The commit that `hf download --local-dir` recorded for these files, if it did and they share one."""
    commits = set()
    for name in names:
        try:
            with (root / f".cache/huggingface/download/{name}.metadata").open(encoding="utf-8") as stream:
                commits.add(stream.readline(80).strip())
        except (OSError, UnicodeDecodeError):
            return None
    commit = commits.pop()
    return commit if not commits and re.fullmatch(r"[0-9a-f]{40}", commit) else None
