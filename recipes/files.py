"""Files and directories that appear complete or not at all, and a lock that keeps other processes out."""

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
_HASHED_BYTES = 1 << 20


@overload
def atomic_write(path: str | Path, mode: Literal["wb"] = "wb") -> AbstractContextManager[BinaryIO]: ...
@overload
def atomic_write(path: str | Path, mode: Literal["w"]) -> AbstractContextManager[TextIO]: ...
@contextmanager
def atomic_write(path: str | Path, mode: Literal["wb", "w"] = "wb") -> Iterator[Any]:
    """Write a file that appears under its name complete and on disk, or not at all.

    The yielded file has a temporary name in the same directory. When the block ends, the file is synced and
    renamed, and the directory synced; when the block raises, the file is removed. Whatever a killed process
    left under a temporary name is removed by the next `atomic_write` of the same path. The file may also be
    read and repositioned.

    Raises:
        UserError: the file cannot be written (disk full, no permission, not a regular file ...); the message
            names the path and the free space. An OSError about another file, raised inside the block, passes
            through unchanged.

    Example:
        >>> with atomic_write("metrics.json", "w") as stream:
        ...     json.dump(metrics, stream)
    """
    # Given a symbolic link, replace its target and keep the link.
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it exists and is not a regular file")
        remove_stale(target)
        created, descriptor = _create_temporary(target)
    except OSError as error:
        # Whatever file the error names, it concerns this one: a directory that may not be written, say.
        raise UserError(f"cannot write {path}: {error.strerror} ({free_space(target.parent)})") from error
    temporary: Path | None = created
    try:
        # "+" allows seeking back, as the .idx writer does to fill in counts known only at the end.
        encoding = None if mode == "wb" else "utf-8"
        with os.fdopen(descriptor, f"{mode}+", encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
            # Before closing, which releases the lock: an unlocked temporary file counts as stale.
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
    """Check now, before hours of work, that `make_directory` and `atomic_write` of `path` can succeed.

    Nothing is left behind: where directories are missing, the nearest existing one is tried.

    Raises:
        UserError: no file can be written there; the message is that of `atomic_write`.
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
        Whether another process is writing `path` right now (its temporary file is locked, and kept).
    """
    path = Path(os.path.realpath(path))
    busy = False
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for entry in path.parent.iterdir():
        if not temporary.fullmatch(entry.name):
            continue
        # Files that vanish meanwhile are fine.
        with suppress(OSError), entry.open("rb") as stream:
            try:
                # Without locks, its writer may still be alive.
                if exclusive_lock(stream):
                    entry.unlink()
            except LockHeld:
                busy = True
    return busy


@contextmanager
def partial_directory(target: str | Path, *, replace: bool = False, durable: bool = True) -> Iterator[Path]:
    """A new directory that becomes `target` when the block succeeds and is removed when it raises.

    Until then it has a temporary name beside `target`. Whatever a killed process left under that name is
    removed by the next call for the same `target`.

    Args:
        target: missing parents are created.
        replace: replace an existing directory.
        durable: sync the files and the rename, so that they survive a power failure.

    Raises:
        UserError: the disk refuses; `target` exists and is not to be replaced; or another process is writing
            it. An OSError about another file, raised inside the block, passes through unchanged.

    Example:
        >>> with partial_directory("exported") as directory:
        ...     (directory / "config.json").write_text(config)
    """
    # Given a symbolic link, replace its target and keep the link.
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
        # Only here: after the rename the temporary name may belong to another writer.
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and _is_about(error, place, partial):
            raise UserError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    finally:
        os.close(lock)


def partial_path(target: Path) -> Path:
    """The temporary name, beside `target`, under which a directory or link is made."""
    return target.with_name(f".{target.name}.partial")


def put_in_place(partial: Path, target: Path, *, replace: bool = False, strict: bool = False) -> None:
    """Rename a directory, whose files have been synced, to `target`; sync the rename.

    Args:
        replace: replace an existing directory.
        strict: fail where the file system cannot sync directories.
    """
    fsync_directory(partial, strict=strict)
    replaced = partial_path(target.with_name(f"{target.name}.replaced"))
    make_room = replace and target.exists()
    if make_room:
        # Move it aside first: deleting takes a while, and a kill in the middle would leave half of it.
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
        file: should be open for writing, which NFS and `inherited=False` require.
        held: the message of the error if another process holds the lock.
        inherited: whether processes forked from now on share the lock and can outlive us with it. If not, it
            is also lost when this process opens and closes the file a second time.
        patience_s: how many seconds to wait for another process to release it.
        on_wait: called once, before waiting.

    Returns:
        False where the file system has no locks; callers carry on without one.

    Raises:
        LockHeld: another process holds it.
    """
    # An flock belongs to the open file, which forked processes share; a record lock to the process.
    lock = fcntl.flock if inherited else fcntl.lockf
    deadline: float | None = None
    while True:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            # POSIX lets systems choose between the two for "another process holds it".
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return False
        if deadline is None:
            deadline = time.monotonic() + patience_s
            if on_wait and patience_s > 0:
                on_wait()
        if time.monotonic() >= deadline:
            raise LockHeld(held)
        time.sleep(_LOCK_POLL_S)


def sha256_file(path: str | Path, seen: Callable[[int], None] = lambda size: None) -> str:
    """The SHA-256 of a file's content, in hexadecimal; `seen` gets the bytes read since its last call.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Path(path).open("rb", buffering=0) as stream:
            digest = hashlib.sha256()
            while block := stream.read(_HASHED_BYTES):
                digest.update(block)
                seen(len(block))
            return digest.hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def forget_cached(path: str | Path) -> None:
    """Lets the system drop what it has of a synced file in memory, so that the disk is read; where it can."""
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def make_directory(path: str | Path) -> None:
    """Make a directory and its missing parents, unless it exists.

    Raises:
        UserError: it cannot be made: no permission, a file is in the way ...
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is there" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"cannot make the directory {path}: {reason}") from error


def leads_out(path: Path, directory: Path) -> bool:
    """Whether `path`, by name inside `directory`, is a file elsewhere because of links.

    The contents of an untrusted directory may be published, so a link in it must not pull in a user's other
    files. The one exception is the layout of Hugging Face's own cache: snapshots/ of links into blobs/.
    """
    root = directory.resolve()
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    resolved = path.resolve()
    return not any(resolved.is_relative_to(allowed) for allowed in roots)


@contextmanager
def path_errors(path: str | Path) -> Iterator[None]:
    """For a block that checks whether `path` exists or what it is: turns an OSError into a UserError.

    Raises:
        UserError: its directory may not be entered, or its name is invalid.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


def refuse_lfs_pointer(path: str | Path) -> None:
    """Git LFS leaves small text files in place of files not fetched, which would be reported as damaged.

    Raises:
        UserError: `path` is one.
    """
    if Path(path).is_fifo():  # Such as the shell's <(...): what is read of it here would be lost.
        return
    with Path(path).open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path} is a Git LFS pointer, not the file itself: fetch it with git lfs pull")


def _create_temporary(target: Path) -> tuple[Path, int]:
    """A new, locked temporary file beside `target`, with the permissions any new file has."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # The lock marks a living writer: a file without one is stale. On a file system without locks nothing
        # is ever taken for stale.
        with suppress(LockHeld):
            exclusive_lock(descriptor)
            if os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        os.close(descriptor)  # Another process's remove_stale got there first.


def _locked_empty_directory(path: Path, held: str) -> int:
    """Make `path` an empty directory, and lock it; whatever a killed process left in it is removed.

    Returns:
        A file descriptor, which holds the lock.

    Raises:
        LockHeld: another process is writing there; the message is `held`.
        OSError: a file or a link is in the way, or the disk refuses.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            exclusive_lock(descriptor, held)
            # Another writer may have finished, and renamed or removed it, before we had the lock.
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
    """Whether `error` is about writing `paths`. A failed write carries no file name, other errors do."""
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
    """The free space in words, for messages."""
    free = free_bytes(directory)
    return "free space unknown" if free is None else f"{free / 1e9:.3g} GB free"


def fsync_directory(directory: Path, *, strict: bool = False) -> None:
    """Make a rename survive a power failure.

    Some network file systems refuse and have nothing better to offer; with `strict` that is an error.
    """
    _fsync(directory, strict=strict)


def _fsync(path: Path, *, strict: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with nullcontext() if strict else suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
