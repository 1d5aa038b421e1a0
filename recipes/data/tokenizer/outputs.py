"""Where a trained tokenizer goes: PREFIX.model with its record, or a Hugging Face directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from recipes.checks import refuse
from recipes.data.tokenizer.load import DIRECTORY_RECORD, read_record
from recipes.errors import UserError
from recipes.files import atomic_write, check_writable, make_directory, partial_directory, remove_stale


class Output(Protocol):
    """Where one tokenizer is written."""

    path: Path
    """What `load_tokenizer` loads."""

    def existing(self) -> list[str]:
        """The paths that exist and would be replaced.

        Raises:
            UserError: one of them is not a tokenizer's.
        """
        ...

    def record(self) -> dict[str, Any]:
        """The record of the training that made the existing tokenizer; {} if there is none."""
        ...

    def check(self) -> None:
        """Whether something can be written there; nothing is left behind.

        Raises:
            UserError: it cannot.
        """
        ...

    def prepare(self) -> None:
        """Makes the directories."""
        ...

    def write(self, files: Mapping[str, bytes], record: dict[str, Any]) -> None: ...


class ModelOutput:
    """PREFIX.model, PREFIX.vocab and PREFIX.json."""

    def __init__(self, prefix: str | Path) -> None:
        if str(prefix).endswith("/") or Path(prefix).name in ("", ".", ".."):
            refuse("--out", prefix, "is a directory's name; the files are called PREFIX.model and so on")
        self.path, self._vocab, self._json = (
            Path(f"{prefix}{suffix}") for suffix in (".model", ".vocab", ".json")
        )

    def existing(self) -> list[str]:
        read_record(self._json, strict=True)
        return [str(path) for path in (self.path, self._vocab, self._json) if path.exists()]

    def record(self) -> dict[str, Any]:
        return read_record(self._json)

    def check(self) -> None:
        check_writable(self.path)

    def prepare(self) -> None:
        make_directory(self.path.parent)
        for path in (self.path, self._vocab, self._json):
            remove_stale(path)

    def write(self, files: Mapping[str, bytes], record: dict[str, Any]) -> None:
        # The old record goes first and the new one comes last: a kill in between leaves no wrong record.
        self._json.unlink(missing_ok=True)
        for path, name in ((self.path, "model"), (self._vocab, "vocab")):
            with atomic_write(path) as stream:
                stream.write(files[name])
        with atomic_write(self._json) as stream:
            stream.write(_record(record))


class DirectoryOutput:
    """A directory with tokenizer.json, the files beside it, and the record."""

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)

    def existing(self) -> list[str]:
        if not self.path.exists():
            return []
        if not self.record():
            raise UserError(f"{self.path} exists and does not describe a tokenizer: choose another name")
        return [str(self.path)]

    def record(self) -> dict[str, Any]:
        return read_record(self.path / DIRECTORY_RECORD)

    def check(self) -> None:
        check_writable(self.path / DIRECTORY_RECORD)

    def prepare(self) -> None:
        make_directory(self.path.absolute().parent)

    def write(self, files: Mapping[str, bytes], record: dict[str, Any]) -> None:
        with partial_directory(self.path, replace=True) as partial:
            for name, content in {**files, DIRECTORY_RECORD: _record(record)}.items():
                (partial / name).write_bytes(content)


def _record(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode()
