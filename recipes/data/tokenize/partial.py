"""The unfinished output of tools.preprocess in PREFIX.partial/, from which a killed run continues.

tokens.bin and tokens.idx grow block by block; after every block journal.jsonl records how far they are valid,
with a checksum. Whatever was written after its last good line is cut off and redone.
settings.json records the settings and inputs of the work.
done.json, the future sidecar, is written once both files are complete and synced; after that only renames
remain.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from recipes.data.samples.indexed import HEADER_BYTES, bin_path, idx_path, sidecar_path
from recipes.data.text.blocks import Place
from recipes.errors import UserError
from recipes.files import LockHeld, atomic_write, exclusive_lock, free_space, fsync_directory

PURPOSE_KIND = "unfinished indexed dataset"
_SYNC_BYTES = 256 << 20  # of tokens between fsyncs: what a power failure may cost; a kill costs none of them


@dataclass(frozen=True)
class Mark:
    """How far the work has got: a line of the journal. Counts include everything up to here."""

    file: int
    offset: int
    """With `file`: where in the inputs to continue."""
    documents: int = 0
    tokens: int = 0
    bin_bytes: int = 0
    text_bytes: int = 0
    empty_documents: int = 0
    file_documents: int = 0
    """Documents in the input that contains `offset`; if `offset` is 0, in the input that has just ended."""
    sha256: str = hashlib.sha256().hexdigest()
    """Of the tokens up to here."""
    samples: tuple[tuple[int, str], ...] = ()
    """Numbers and texts of some documents of the last block, to be compared at the end."""

    @property
    def place(self) -> Place:
        return Place(self.file, self.offset)


class PartialOutput:
    """PREFIX.partial/, locked while it is open. Call :meth:`resume` before anything else.

    Args:
        prefix: of the output.

    Raises:
        UserError: another process is writing to it, or tools.preprocess did not create the directory.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        self.directory = partial_path(prefix)
        self.bin_path, self.idx_path = self.directory / "tokens.bin", self.directory / "tokens.idx"
        self.last = Mark(0, 0)
        """How far the work has got."""
        self.blocks = 0
        """The number of marks."""
        self.digest = hashlib.sha256()
        """Of the tokens so far."""
        self._samples: list[tuple[int, str]] = []
        self._unsynced = 0
        with self.named_errors():
            self._journal = _open_locked(self.directory)
            self.bin_file: BinaryIO = _open(self.bin_path)
            self.idx_file: BinaryIO = _open(self.idx_path)

    def resume(self, settings: dict[str, Any], inputs: Sequence[str], discard: bool) -> None:
        """Continue after the work of earlier runs with these settings and inputs; cut off the rest.

        Args:
            settings: what determines the tokens, apart from the inputs.
            inputs: the SHA-256 of each.
            discard: start over if the directory holds work with other settings or inputs.

        Raises:
            UserError: it holds such work and `discard` is False.
        """
        path = self.directory / "settings.json"
        found = _read_purpose(path)
        begun = found is not None and self._journal.readline() != b""
        self._journal.seek(0)
        if found is not None and found["settings"] == settings:
            self._keep_sound(_common_length(found["inputs"], inputs))
        if begun and not self.blocks and not discard:
            raise UserError(
                f"{self.directory} holds unfinished work with other settings or inputs: finish that first, "
                f"choose another --out, or discard it with --force"
            )
        with self.named_errors():
            with atomic_write(path, "w") as stream:
                json.dump({"kind": PURPOSE_KIND, "format": 1, "settings": settings, "inputs": inputs}, stream)
            self._journal.truncate()
            self.bin_file.seek(self.last.bin_bytes)
            self.bin_file.truncate()
            self.idx_file.seek(HEADER_BYTES + 4 * self.last.documents if self.blocks else 0)
            self.idx_file.truncate()

    @property
    def samples(self) -> list[tuple[int, str]]:
        """Numbers and texts of some documents in blocks 1, 2, 4, 8, ... and in the last one."""
        return list(dict.fromkeys([*self._samples, *self.last.samples]))

    def add(self, mark: Mark) -> None:
        """Record that the tokens and lengths written so far are valid up to `mark`."""
        self.bin_file.flush()
        self.idx_file.flush()
        self._unsynced += mark.bin_bytes - self.last.bin_bytes
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            os.fsync(self.bin_file.fileno())
            os.fsync(self.idx_file.fileno())
        self._journal.write(json.dumps(asdict(mark), ensure_ascii=False).encode() + b"\n")
        self._journal.flush()
        self._count(mark)

    def _count(self, mark: Mark) -> None:
        self.last = mark
        self.blocks += 1
        if self.blocks.bit_count() == 1:
            self._samples += mark.samples

    def finish(self, sidecar: str) -> None:
        """Rename the finished files, the sidecar last. Old data go only when everything is on disk."""
        with self.named_errors():
            for file in (self.bin_file, self.idx_file):
                file.flush()
                os.fsync(file.fileno())
            with atomic_write(self.directory / "done.json", "w") as stream:
                stream.write(sidecar)
            _rename(self.prefix)
        self.close()

    def close(self) -> None:
        """Release the directory; it stays for the next run if it holds any work."""
        if self.directory.is_dir() and not os.fstat(self._journal.fileno()).st_size:
            shutil.rmtree(self.directory)
        for file in (self.bin_file, self.idx_file, self._journal):
            with suppress(OSError):  # If the disk is still full: that has been reported.
                file.close()

    def discard(self) -> None:
        """Remove the work done so far."""
        shutil.rmtree(self.directory)

    def __enter__(self) -> "PartialOutput":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turns OSErrors about these files into messages for the user."""
        try:
            yield
        except OSError as error:
            if error.filename and not str(error.filename).startswith(str(self.prefix)):
                raise
            raise UserError(
                f"cannot write {self.prefix}.bin: {error.strerror} ({free_space(self.prefix.parent)})"
            ) from error

    def _keep_sound(self, same_inputs: int) -> None:
        """Continue after the last mark in the first `same_inputs` files up to which our files are sound."""
        size_of_idx = os.fstat(self.idx_file.fileno()).st_size
        digest = hashlib.sha256()
        end = 0
        for line in self._journal:
            mark = _read_mark(line)
            if mark is None or mark.file + (mark.offset > 0) > same_inputs:
                break
            missing = mark.bin_bytes - self.last.bin_bytes
            while missing and (data := self.bin_file.read(min(missing, 1 << 20))):
                digest.update(data)
                missing -= len(data)
            lengths_end = HEADER_BYTES + 4 * mark.documents
            if missing or digest.hexdigest() != mark.sha256 or size_of_idx < lengths_end:
                break
            self.digest = digest.copy()
            self._count(mark)
            end += len(line)
        self._journal.seek(end)  # The beginning, if nothing is sound.


def partial_path(prefix: str | Path) -> Path:
    """PREFIX.partial/."""
    return Path(f"{prefix}.partial")


def finish_renames(prefix: str | Path) -> None:
    """Do the renames of a run that was killed after its last sync."""
    if (partial_path(prefix) / "done.json").is_file():
        _open_locked(partial_path(prefix)).close()
        _rename(Path(prefix))


def _rename(prefix: Path) -> None:
    directory = partial_path(prefix)
    # The old sidecar goes first, so that a kill between the renames does not leave a wrong one.
    if (directory / "tokens.bin").exists():
        sidecar_path(prefix).unlink(missing_ok=True)
    for name, target in (("tokens.bin", bin_path(prefix)), ("tokens.idx", idx_path(prefix))):
        if (directory / name).exists():
            (directory / name).replace(target)
    fsync_directory(prefix.parent)
    (directory / "done.json").replace(sidecar_path(prefix))
    fsync_directory(prefix.parent)
    shutil.rmtree(directory)


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")


def _open_locked(directory: Path) -> BinaryIO:
    """The journal, locked as long as it is open: the lock marks a live writer."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "journal.jsonl").exists():
        raise UserError(
            f"{directory} exists and is not by tools.preprocess: move it, or choose another --out"
        )
    while True:
        directory.mkdir(exist_ok=True)
        try:
            journal = _open(directory / "journal.jsonl")
        except FileNotFoundError:  # Another process finished in between and removed the directory.
            continue
        try:
            locked = exclusive_lock(
                journal,
                f"another process is writing {directory.with_suffix('')}.bin: wait for it, or choose another "
                "prefix",
            )
        except LockHeld:
            journal.close()
            raise
        # A process that has just finished may have removed the journal. Without lock support, just go on.
        if not locked or os.fstat(journal.fileno()).st_nlink:
            return journal
        journal.close()


def _read_purpose(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(fields, dict) or (fields.get("kind"), fields.get("format")) != (PURPOSE_KIND, 1):
        raise UserError(f"{path} is not by this version of tools.preprocess: move {path.parent} away")
    return fields


def _read_mark(line: bytes) -> Mark | None:
    """The mark in a line of the journal; None if the line was cut off."""
    try:
        fields = json.loads(line)
        samples = tuple((number, text) for number, text in fields.pop("samples"))
        return Mark(**fields, samples=samples)
    except (ValueError, KeyError, TypeError):
        return None


def _common_length(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
