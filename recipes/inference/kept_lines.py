"""A file of results that grows in order, is there as a whole or not at all, and survives an interruption."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from recipes.errors import UserError
from recipes.files import atomic_write, exclusive_lock, make_directory, path_errors


class KeptLines:
    """Lines are appended to ``<path>.partial``, which becomes ``path`` when all are there.

    The partial file's first line says what its lines are results of. If it is there already and says the
    same, its lines are kept, and :attr:`done` is how many there are.

    Args:
        path: must not exist yet.
        of: everything that the lines depend on, as JSON values.

    Raises:
        UserError: the partial file holds results of something else, or another process writes it.
    """

    def __init__(self, path: Path, of: Any) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        digest = hashlib.sha256(json.dumps(of, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        header = json.dumps({"results_of": digest}).encode() + b"\n"
        self._start = len(header)
        make_directory(path.parent)
        with path_errors(self.partial):
            self._file = self.partial.open("a+b")
        try:
            self.done = self._begin(header)
            """Lines that were there."""
        except BaseException:
            self._file.close()
            raise

    def _begin(self, header: bytes) -> int:
        # Two processes would write each line twice, and take the file from under each other at the end.
        exclusive_lock(self._file, f"{self.partial} is being written by another process; wait for its end")
        if self.path.exists():  # Another process has finished it meanwhile, and this one has begun anew.
            if not os.fstat(self._file.fileno()).st_size:
                self.partial.unlink(missing_ok=True)
            raise UserError(
                f"{self.path} is there already: choose another file, output_jsonl=..., or remove it"
            )
        self._file.seek(0)
        kept = self._file.read()
        whole = kept[: kept.rfind(b"\n") + 1]  # A line that was being written is written again.
        if whole and not whole.startswith(header):
            raise UserError(
                f"{self.partial} holds results of other prompts, settings or another model; remove it, or "
                "choose another file, output_jsonl=..."
            )
        with path_errors(self.partial):
            self._file.truncate(len(whole))
            if not whole:
                self._file.write(header)
                self._file.flush()
        return max(0, whole.count(b"\n") - 1)

    def append(self, line: str) -> None:
        """Adds a line, which stays whatever happens to this process."""
        with path_errors(self.partial):
            self._file.write(line.encode() + b"\n")
            self._file.flush()

    def __enter__(self) -> KeptLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Puts the whole file in its place, unless something has interrupted it."""
        with self._file:  # Locked until all is done.
            if kind is not None:
                return
            with atomic_write(self.path) as file:
                self._file.seek(self._start)
                shutil.copyfileobj(self._file, file)
            self.partial.unlink()
