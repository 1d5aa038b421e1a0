"""Files and directories that are either whole or not there, and the lock that keeps other processes out."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from recipes.errors import UserError

_LOCK_POLL_S = 0.2


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
        # A file that vanishes is left alone.
        with suppress(OSError), entry.open("rb") as stream:
            try:
                # Without locks nobody can tell whether its writer lives.
                if exclusive_lock(stream):
                    entry.unlink()
            except LockHeld:
                busy = True
    return busy


@contextmanager
def partial_directory(target: str | Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """A new directory that becomes `target` when the block ends well, and is removed when it raises.

    Until then it has a temporary name beside `target`. What a killed process left under that name is removed
    by the next call for the same `target`.

    Args:
        target: the directory's name to be; missing ones above it are made.
        replace: put the new directory in the place of one that is there.
        durable: sync the files and the rename, so that they survive a power cut.

    Raises:
        UserError: the disk refuses, `target` is there and not to be replaced, or another process is writing
            it. An OSError about another file, raised inside the block, passes unchanged.

    Example:
        >>> with partial_directory("exported") as directory:
        ...     (directory / "config.json").write_text(config)
    """
    # A symbolic link keeps pointing where it did, as for `atomic_write`.
    place = Path(os.path.realpath(target))
    partial = partial_path(place)
    try:
        lock = _locked_empty_directory(partial, f"{target} is being written by another process")
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        yield partial
        if durable:
            for path in partial.rglob("*"):
                _fsync(path, strict=not path.is_dir())
        put_in_place(partial, place, replace=replace)
    except BaseException as error:
        # Here only, as the name may belong to the next writer once the directory has been renamed.
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and _is_about(error, place, partial):
            raise UserError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    finally:
        os.close(lock)


def partial_path(target: Path) -> Path:
    """The temporary name beside `target` under which a directory is written."""
    return target.with_name(f".{target.name}.partial")


def put_in_place(partial: Path, target: Path, *, replace: bool = False, strict: bool = False) -> None:
    """Rename a directory whose files are synced to `target`, and sync the rename.

    Args:
        replace: put it in the place of a directory that is there.
        strict: fail where the file system cannot sync directories.
    """
    fsync_directory(partial, strict=strict)
    replaced = partial_path(target.with_name(f"{target.name}.replaced"))
    make_room = replace and target.exists()
    if make_room:
        # Renamed, not deleted: that takes long, and a kill meanwhile would leave half of it under its name.
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        partial.rename(target)
    except OSError:
        if make_room:
            replaced.rename(target)
        raise
    fsync_directory(target.absolute().parent, strict=strict)
    shutil.rmtree(replaced, ignore_errors=True)


class LockHeld(UserError):
    """Another process holds the lock."""


def exclusive_lock(
    file: int | IO[Any],
    held: str = "in use by another process",
    *,
    inherited: bool = True,
    patience_s: float = 0.0,
    on_wait: Callable[[], None] | None = None,
) -> bool:
    """Lock an open file until it is closed or the process ends, however it ends.

    Args:
        file: open for writing: NFS and `inherited=False` ask for that.
        held: the error's message, should another process hold the lock.
        inherited: whether processes forked from now on hold the lock too, for as long as they live. If not,
            the lock is also lost when this process opens the file once more and closes that.
        patience_s: seconds to wait for another process to let go.
        on_wait: called once, before waiting.

    Returns:
        False where the file system has no locks. Callers then go on without one.

    Raises:
        LockHeld: another process holds it.
    """
    # flock's locks belong to the open file, which forked processes share; record locks to the process.
    lock = fcntl.flock if inherited else fcntl.lockf
    deadline: float | None = None
    while True:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            # Which of the two says that another has it is the system's choice.
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return False
        if deadline is None:
            deadline = time.monotonic() + patience_s
            if on_wait and patience_s > 0:
                on_wait()
        if time.monotonic() >= deadline:
            raise LockHeld(held)
        time.sleep(_LOCK_POLL_S)


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
        # The lock marks a living writer: what it does not protect is stale. On a file system without locks
        # nothing is ever taken for stale.
        with suppress(LockHeld):
            exclusive_lock(descriptor)
            if os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        os.close(descriptor)  # Another process's remove_stale came in between.


def _locked_empty_directory(path: Path, held: str) -> int:
    """Make `path` an empty directory that no other process writes into; what one left there is removed.

    Returns:
        A file descriptor, which holds the lock.

    Raises:
        LockHeld: with the message `held`.
        OSError: a file or a link is there, or the disk refuses.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            exclusive_lock(descriptor, held)
            # Its writer may have finished before the lock was ours, and renamed or removed it.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                stack.pop_all()
                break
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return descriptor


def _is_about(error: OSError, *paths: Path | None) -> bool:
    """Whether `error` is about writing `paths`: a failed write has no file name, other errors name theirs."""
    if isinstance(error, ConnectionError | TimeoutError | ChildProcessError) or error.strerror is None:
        return False
    ours = {str(path) for path in paths} | {str(path.parent) for path in paths if path}
    named = str(error.filename)
    return error.filename is None or named in ours or any(Path(named).is_relative_to(p) for p in paths if p)


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
    _fsync(directory, strict=strict)


def _fsync(path: Path, *, strict: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with nullcontext() if strict else suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
