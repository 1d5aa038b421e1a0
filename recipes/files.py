"""Files that are either whole or not there, and their checksums."""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, overload

from recipes.errors import UserError


@overload
def atomic_write(path: str | Path, mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...
@overload
def atomic_write(path: str | Path, mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...
@contextmanager
def atomic_write(path: str | Path, mode: Literal["wb", "w"] = "wb") -> Iterator[Any]:
    """Write a file that appears under its name whole and on disk, or not at all.

    The yielded file has a temporary name in the same directory. When the block ends it is synced, renamed
    and the directory synced; when the block raises, it is removed. What a killed process left under a
    temporary name is removed by the next `atomic_write` of the same path. The file may also be read and
    repositioned.

    Raises:
        UserError: the file cannot be written (disk full, no permission, not a regular file ...); the message
            names the path and the free space. An OSError about another file, raised inside the block, passes
            unchanged.

    Example:
        >>> with atomic_write("metrics.json", "w") as stream:
        ...     json.dump(metrics, stream)
    """
    # A symbolic link keeps pointing where it did: its target is replaced.
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it exists and is not a regular file")
        remove_stale(target)
        created, descriptor = _create_temporary(target)
    except OSError as error:
        # Whatever file it names, it is about this one: a directory that may not be written.
        raise UserError(f"cannot write {path}: {error.strerror} ({free_space(target.parent)})") from error
    temporary: Path | None = created
    try:
        # "+" lets the writer go back, as the .idx writer does to fill in counts it knows only at the end.
        encoding = None if mode == "wb" else "utf-8"
        with os.fdopen(descriptor, f"{mode}+", encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
            # Before it is closed: closing gives up the lock, and an unlocked temporary is taken for stale.
            created.replace(target)
            temporary = None
        fsync_directory(target.parent)
    except OSError as error:
        if not _is_about(error, target, temporary):
            raise
        raise UserError(f"cannot write {path}: {error.strerror} ({free_space(target.parent)})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Try now, before hours of work, what `make_directory` and `atomic_write` of `path` will need.

    Nothing stays behind: where directories are missing, the nearest one that is there is tried.

    Raises:
        UserError: no file could be written there, as `atomic_write` would say it.
    """
    target = Path(os.path.realpath(path))
    directory = target.parent
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it exists and is not a regular file")
        while not directory.exists():
            directory = directory.parent
        temporary, descriptor = _create_temporary(directory / target.name)
        temporary.unlink(missing_ok=True)
        os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror} ({free_space(directory)})") from error


def remove_stale(path: str | Path) -> bool:
    """Remove the temporary files that killed writers of `path` left behind.

    Returns:
        Whether another process is writing `path` at this moment (its temporary file is locked, and kept).
    """
    path = Path(os.path.realpath(path))
    busy = False
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for entry in path.parent.iterdir():
        if not temporary.fullmatch(entry.name):
            continue
        # A file that vanishes, or a file system without locks, is left alone.
        with suppress(OSError), entry.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy = True
                continue
            entry.unlink()
    return busy


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def make_directory(path: str | Path) -> None:
    """Make a directory, and those above it, unless it is there.

    Raises:
        UserError: it cannot be made: no permission, a file is in the way ...
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is there" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"cannot make the directory {path}: {reason}") from error


def leads_out(path: Path, directory: Path) -> bool:
    """Whether links make `path`, whose name lies in `directory`, a file elsewhere.

    What a stranger's directory holds may be published, so that a link must not fetch it from a user's other
    files. The one exception is how Hugging Face's own cache is laid out: snapshots/ of links into blobs/.
    """
    root = directory.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    resolved = path.resolve()
    return not any(resolved.is_relative_to(allowed) for allowed in roots)


def distinct_labels(paths: Sequence[Path], label: Callable[[Path], str]) -> list[str]:
    """Short names for `paths`; the whole paths of those that would have the same one.

    Raises:
        UserError: a path is given twice.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice")
    short = [label(path) for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


@contextmanager
def may_look(path: str | Path) -> Iterator[None]:
    """For the block that asks whether `path` exists, and what it is.

    Raises:
        UserError: it lies in a directory that may not be entered, or its name is none.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _create_temporary(target: Path) -> tuple[Path, int]:
    """A new, locked temporary file beside `target`, with the permissions any new file has."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # The lock marks a living writer and goes away with the process, however it dies. File systems without
        # locks are served all the same: there, nothing is ever taken for stale.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # another process's remove_stale came between the two calls


def _is_about(error: OSError, *paths: Path | None) -> bool:
    """Whether `error` is about writing `paths`: a failed write has no file name, other errors name theirs."""
    if isinstance(error, ConnectionError | TimeoutError | ChildProcessError) or error.strerror is None:
        return False
    ours = {str(path) for path in paths} | {str(path.parent) for path in paths if path}
    return error.filename is None or str(error.filename) in ours


def free_bytes(directory: Path) -> int | None:
    """Bytes free on the file system of `directory`; None if it cannot say."""
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def free_space(directory: Path) -> str:
    """The same in words, for messages."""
    free = free_bytes(directory)
    return "free space unknown" if free is None else f"{free / 1e9:.3g} GB free"


def fsync_directory(directory: Path, *, strict: bool = False) -> None:
    """Make a rename survive a power cut.

    Some network file systems refuse, and then offer nothing better: with `strict` that is an error.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with nullcontext() if strict else suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
