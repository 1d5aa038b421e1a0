"""Packing and unpacking .nemo archives. Archives are untrusted: they write only where the user said."""

from __future__ import annotations

import errno
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from recipes.errors import UserError
from recipes.files import atomic_write, partial_directory, path_errors

Progress = Callable[[int, int], None]
# What reading a damaged tar or gzip stream raises (OverflowError: an offset beyond all files; RecursionError:
# headers of headers); an OSError without an errno is gzip's own.
DAMAGE = (
    tarfile.TarError,
    EOFError,
    ValueError,
    zlib.error,
    OverflowError,
    MemoryError,
    RecursionError,
)
GZIP = b"\x1f\x8b"
LONGEST_NAME = tarfile.LENGTH_NAME - len("./")
"""The longest name, in bytes, that fits into one header."""
# tarfile reads a member's long name and attributes at once, whatever size their header claims. NeMo's have a
# few hundred bytes each, and its archives a few thousand members.
LARGEST_EXTENSION = 1_000_000
LARGEST_EXTENSIONS = 32_000_000
MOST_HEADERS = 200_000
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Member(tarfile.TarInfo):
    """A header that is checked before tarfile does what it says."""

    def _proc_member(self, archive: _Archive) -> tarfile.TarInfo:
        """tarfile's hook for subclasses: called for every header, also for the one behind a long name."""
        archive.headers += 1
        if archive.headers > MOST_HEADERS:
            raise tarfile.ReadError(f"it has more than {MOST_HEADERS:,} headers")
        if self.type in _EXTENSIONS:
            archive.extensions += self.size
            if not 0 <= self.size <= LARGEST_EXTENSION or archive.extensions > LARGEST_EXTENSIONS:
                raise tarfile.ReadError(f"a name or attribute of {self.size:,} bytes")
        if self.type == tarfile.XGLTYPE:  # Its attributes would be copied to every member.
            raise tarfile.ReadError("it has attributes for all members together, as NeMo's never have")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        member.pax_headers = {}  # They have been applied; kept, they could need more memory than the file.
        return member

    def _refuse_sparse(self, *_: object) -> None:
        """512 bytes of header can stand for terabytes of zeros, or lead to an endless list of them."""
        raise tarfile.ReadError(f"member {self.name!r} is a sparse file; refused")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Archive(tarfile.TarFile):
    tarinfo = _Member
    headers = 0
    extensions = 0


def open_archive(path: Path) -> tarfile.TarFile:
    """Opens a .nemo: a plain tar, or the compressed one that NeMo also writes.

    Raises:
        UserError: it is neither.
    """
    try:
        with path.open("rb") as file:
            compressed = file.read(len(GZIP)) == GZIP
        return _Archive.open(path, "r:gz" if compressed else "r:")
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        raise UserError(f"{path}: not a .nemo archive: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def checked_members(archive: tarfile.TarFile, name: str) -> list[tarfile.TarInfo]:
    """The archive's members, if all of them are plain files and directories inside it.

    Raises:
        UserError: a member is a link or a device, appears twice, or its name leads out of the archive.
    """
    try:
        members = archive.getmembers()
    except (*DAMAGE, OSError) as error:
        raise UserError(f"{name}: the archive is damaged: {_reason(error)}") from None
    seen: dict[PurePosixPath, tarfile.TarInfo] = {}
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{name}: member {member.name!r} leads out of the archive; refused")
        if not (member.isreg() or member.isdir()):
            raise UserError(f"{name}: member {member.name!r} is a link or a device; refused")
        if "\0" in member.name or member.size < 0:
            raise UserError(f"{name}: the archive is damaged at member {member.name!r}")
        # The second would silently replace the first, which another reader may have checked.
        if path in seen and not (member.isdir() and seen[path].isdir()):
            raise UserError(f"{name}: member {member.name!r} appears twice; refused")
        seen[path] = member
    return members


def extract_archive(
    path: Path, directory: Path, progress: Progress | None = None, *, durable: bool = True
) -> None:
    """Unpacks ``path`` into ``directory``, which must not exist yet and appears only once complete.

    ``durable``: make it survive a power failure.

    Raises:
        UserError: the archive is hostile or damaged, the directory exists, or the disk refuses.
    """
    with path_errors(directory):
        if directory.exists():
            raise UserError(f"{directory} exists; name a new directory")
    with open_archive(path) as archive:
        members = checked_members(archive, str(path))
        total = sum(member.size for member in members)
        free = shutil.disk_usage(_existing_parent(directory)).free
        if total > free:
            largest = max(members, key=lambda member: member.size)
            raise UserError(
                f"{path}: needs {total / 1e6:.0f} MB, {directory.parent} has {free / 1e6:.0f} MB free "
                f"(largest member: {largest.name!r})"
            )
        done = 0
        with partial_directory(directory, durable=durable) as partial, _damage_named(path):
            for member in members:
                _extract_member(archive, member, partial)
                done += member.size
                if progress:
                    progress(done, total)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns what reading a damaged archive raises into a UserError that names ``path``."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{path}: the archive is damaged: {_reason(error)}") from None
    except OSError as error:
        if error.errno not in (None, errno.EIO):
            raise
        raise UserError(f"{path}: the archive is damaged: {_reason(error)}") from None


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    """Writes a checked member. Not TarFile.extract: its safe filter is missing from Python 3.11.0 to .3."""
    target = directory / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file, length=1 << 20)


def pack_archive(directory: Path, path: Path) -> None:
    """Packs ``directory`` as classic NeMo does: an uncompressed tar whose members start with ``./``.

    Whose files they were is left out: a .nemo is given to others, and would name a user of this machine.

    Raises:
        UserError: the disk is full or refuses, or a file cannot be read; an existing file stays as it was.
    """
    with (
        atomic_write(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        try:
            archive.add(directory, arcname="./", filter=_without_owner)
        except OSError as error:
            if error.filename is None:  # Writing failed; atomic_write has the message for that.
                raise
            raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class ArchiveWriter:
    """Writes a .nemo member by member, so that large members need no file of their own first.

    Members are named and laid out as classic NeMo's: an uncompressed tar, names starting with ``./``.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.add_directory("")

    def add_directory(self, name: str) -> None:
        member = self._member(f"{name}/" if name else "")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        self.file.write(member.tobuf(tarfile.GNU_FORMAT))

    def add(self, name: str, content: bytes) -> None:
        with self.open(name) as stream:
            stream.write(content)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A member to write to; its header, which holds the size, is filled in at the end."""
        header = self.file.tell()
        self.file.write(bytes(tarfile.BLOCKSIZE))
        start = self.file.tell()
        yield self.file
        end = self.file.tell()
        member = self._member(name)
        member.size = end - start
        self.file.write(bytes(-member.size % tarfile.BLOCKSIZE))
        after = self.file.tell()
        self.file.seek(header)
        self.file.write(member.tobuf(tarfile.GNU_FORMAT))
        self.file.seek(after)

    def close(self) -> None:
        """A tar ends with two empty blocks and is padded to a multiple of 20, as tarfile does it."""
        self.file.write(bytes(2 * tarfile.BLOCKSIZE))
        self.file.write(bytes(-self.file.tell() % tarfile.RECORDSIZE))

    @staticmethod
    def _member(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(f"./{name}")
        if len(member.name.encode()) > tarfile.LENGTH_NAME:
            raise ValueError(f"{name}: too long for one header")
        member.mtime = int(time.time())
        return member


def fitting_name(name: str, most: int) -> str:
    """``name`` with its stem shortened, so that it has at most ``most`` bytes of UTF-8.

    What cannot be encoded becomes ``?``.
    """
    name = name.encode("utf-8", "replace").decode()
    if len(name.encode()) <= most:
        return name
    suffix = PurePosixPath(name).suffix
    if len(suffix.encode()) > most // 2:  # No suffix, but a name with a dot in it.
        suffix = ""
    stem = name.removesuffix(suffix).encode()[: most - len(suffix.encode())]
    return stem.decode("utf-8", "ignore") + suffix


def read_member(path: Path, basename: str) -> bytes:
    """The content of one small file at the top of an archive.

    Raises:
        UserError: there is no such member.
    """
    with open_archive(path) as archive:
        for member in checked_members(archive, str(path)):
            if PurePosixPath(member.name) == PurePosixPath(basename) and member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                return file.read()
    raise UserError(f"{path}: holds no {basename}, so this is not a .nemo file")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
