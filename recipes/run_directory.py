"""The run directory ``<output_dir>/<name>/``: config.yaml, metrics.jsonl, checkpoints/, model.nemo, logs/."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from recipes.errors import UserError
from recipes.files import atomic_write, make_directory


class RunDirectory:
    """Paths of one run, its configuration, and its appended, fsynced metrics.

    Args:
        path: the directory, ``<output_dir>/<name>``.
        index_cache: where sample indices are kept; None: in the run directory.
    """

    def __init__(self, path: Path, index_cache: Path | None = None) -> None:
        self.path = path
        self.checkpoints = self.path / "checkpoints"
        self.nemo_file = self.path / "model.nemo"
        self.metrics_file = self.path / "metrics.jsonl"
        self.config_file = self.path / "config.yaml"
        self.index_cache = index_cache or self.path / "index_cache"

    def create(self) -> None:
        """Makes the directory."""
        for directory in (self.checkpoints, self.path / "logs"):
            make_directory(directory)

    def record(self, resolved: str) -> None:
        """Writes the resolved configuration, YAML text, to config.yaml."""
        with atomic_write(self.config_file) as file:
            file.write(resolved.encode())

    def describes(self, resolved: str) -> bool:
        """Whether the directory was made with exactly this configuration."""
        return self.config_file.exists() and self.config_file.read_text(encoding="utf-8") == resolved

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl; it is on the disk when this returns.

        Raises:
            UserError: the disk refuses.
        """
        line = json.dumps(record, ensure_ascii=False) + "\n"
        try:
            with self.metrics_file.open("a+b") as file:
                # A crash may have torn the last line: ours must not be glued to it.
                if file.tell() and not _ends_with_newline(file):
                    line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.metrics_file}: cannot be written: {error.strerror}") from error


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The run's metrics as one history.

    The file is only ever appended to: steps after a checkpoint that were trained again after a resume stand
    in it twice, and the later line counts. A start from step 0 takes back everything. Torn lines are passed
    over.
    """
    if not path.exists():
        return []
    history: list[dict[str, Any]] = []
    # Not splitlines(): JSON strings may hold line separators of Unicode.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            continue
        if record.get("event") == "resumed":
            history = [earlier for earlier in history if earlier["step"] <= record["step"]]
        elif record.get("event") == "started":
            history = []
        history.append(record)
    return history
