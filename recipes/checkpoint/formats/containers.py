"""One view of directories and .nemo archives: the names of files, and where their bytes are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from recipes.checkpoint.formats.archive import GZIP, checked_members, extract_archive, open_archive
from recipes.checkpoint.formats.blob import Blob
from recipes.checks import hub_hint
from recipes.errors import UserError
from recipes.files import leads_out, path_errors, refuse_lfs_pointer


class Files(ABC):
    """The files below one place. Names are relative, with ``/``; nothing is read before it is asked for."""

    def __init__(self, label: str) -> None:
        self.label = label
        """What messages call this place."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of files and folders directly here, sorted."""

    @abstractmethod
    def find(self, name: str) -> Blob | None:
        """The file of that name, or None."""

    @abstractmethod
    def folder(self, name: str) -> Files:
        """The files below a folder, which may turn out to have none."""

    def get(self, name: str) -> Blob:
        """The file of that name.

        Raises:
            UserError: there is none.
        """
        blob = self.find(name)
        if blob is None:
            raise UserError(f"{self.label}/{name}: no such file; this is not a whole checkpoint")
        return blob


class DirectoryFiles(Files):
    """A directory, perhaps from a stranger: neither names in the checkpoint nor links lead out of it."""

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        super().__init__(str(directory))
        self._directory = directory
        self._root = directory if root is None else root

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._directory.iterdir())
        except OSError:
            return []

    def find(self, name: str) -> Blob | None:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
            return None
        path = self._directory.joinpath(*parts)
        try:
            if not path.is_file():
                return None
            if leads_out(path, self._root):
                raise UserError(f"{path} is a link out of {self._root}; copy the file there")
            refuse_lfs_pointer(path)
            return Blob(path, 0, path.stat().st_size, str(path))
        except OSError:  # A name too long for the file system, or a directory that may not be entered.
            return None

    def folder(self, name: str) -> Files:
        return DirectoryFiles(self._directory / name, self._root)


class ArchiveFiles(Files):
    """Members of an uncompressed tar, read where they are in it."""

    def __init__(self, label: str, blobs: Mapping[PurePosixPath, Blob], below: PurePosixPath) -> None:
        super().__init__(label)
        self._blobs, self._below = blobs, below
        depth = len(below.parts)
        self._names = sorted(
            {path.parts[depth] for path in blobs if path.parts[:depth] == below.parts and path != below}
        )

    def names(self) -> list[str]:
        return self._names

    def find(self, name: str) -> Blob | None:
        return self._blobs.get(self._below / name)

    def folder(self, name: str) -> Files:
        return ArchiveFiles(f"{self.label}/{name}", self._blobs, self._below / name)


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """The files of a directory or a .nemo. Only a compressed archive is unpacked, until the block ends.

    Raises:
        UserError: it does not exist, or is no archive, or a hostile or damaged one.
    """
    with path_errors(path):
        is_directory, is_file = path.is_dir(), path.is_file()
        if is_file:
            refuse_lfs_pointer(path)
    if is_directory:
        yield DirectoryFiles(path)
    elif not is_file:
        hub = hub_hint(path)
        raise UserError(f"{path}: no such file or directory" + (f"; {hub}" if hub else ""))
    elif _starts_with(path, GZIP):
        with TemporaryDirectory(prefix="nemo_") as temporary:
            directory = Path(temporary) / "model"
            extract_archive(path, directory, durable=False)
            files = DirectoryFiles(directory)
            files.label = str(path)
            yield files
    else:
        yield _archive_files(path)


def _archive_files(path: Path) -> ArchiveFiles:
    size = path.stat().st_size
    blobs = {}
    with open_archive(path) as archive:
        for member in checked_members(archive, str(path)):
            if not member.isreg():
                continue
            if member.offset_data + member.size > size:
                raise UserError(f"{path}: member {member.name!r} is cut off; the archive is damaged")
            name = PurePosixPath(member.name)
            blobs[name] = Blob(path, member.offset_data, member.size, f"{path}:{name}")
    return ArchiveFiles(str(path), blobs, PurePosixPath("."))


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
