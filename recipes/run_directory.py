"""The run directory ``<output_dir>/<name>/``: config.yaml, metrics.jsonl, checkpoints/, model.nemo, logs/."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from recipes.errors import UserError
from recipes.files import atomic_write, make_directory

CHAT_TEMPLATE = "chat_template.jinja"
"""By which the conversations were written that the run is trained on, if they are conversations."""
_DECODER = json.JSONDecoder()
# Beginnings of records to try in a torn line, so that a long line does not take long to read.
_MAX_BEGINNINGS = 100


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
        self.report_file = self.path / "report.html"
        self.metrics_file = self.path / "metrics.jsonl"
        self.config_file = self.path / "config.yaml"
        self.chat_template = self.path / CHAT_TEMPLATE
        self.rollbacks_file = self.path / "rollbacks.json"
        self.index_cache = index_cache or self.path / "index_cache"
        self.followers: list[Callable[[dict[str, Any]], None]] = []
        """Get every record of metrics.jsonl that this process writes, once it is on disk."""

    def create(self) -> None:
        """Makes the directory."""
        for directory in (self.checkpoints, self.path / "logs"):
            make_directory(directory)

    def record(self, resolved: str) -> None:
        """Writes the resolved configuration, YAML text, to config.yaml."""
        with atomic_write(self.config_file) as file:
            file.write(resolved.encode())

    def describes(self, resolved: str) -> bool:
        """Whether the recorded configuration is exactly this one."""
        return self.config_file.exists() and self.config_file.read_text(encoding="utf-8") == resolved

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line to metrics.jsonl; it is on disk when this returns.

        Raises:
            UserError: the line cannot be written.
        """
        line = json.dumps(record, ensure_ascii=False) + "\n"
        try:
            with self.metrics_file.open("a+b") as file:
                # A crash may have torn the last line: ours must not be appended to it.
                if file.tell() and not _ends_with_newline(file):
                    line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.metrics_file}: cannot be written: {error.strerror}") from error
        for follow in self.followers:
            follow(record)


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


@dataclass(frozen=True)
class MetricsLog:
    """The content of a metrics.jsonl; every record has a "step", a whole number from 0 on."""

    appended: list[dict[str, Any]]
    """All records, in the order in which they were written."""
    unreadable_lines: int
    """Lines that hold something else, or could be read only in part."""

    def history(self) -> list[dict[str, Any]]:
        """The records that count, by ascending step.

        The file is only ever appended to: steps after a checkpoint that were repeated after a resume are in
        it twice, and the later record counts; so are those after a loss spike. A start from step 0 replaces
        everything before it. A step lower than the previous one means a resume whose own line was lost.
        """
        history: list[dict[str, Any]] = []
        for record in self.appended:
            step, event = record["step"], record.get("event")
            if event == "started":
                history.clear()
            continues = not history or step >= history[-1]["step"]
            last_kept = step if continues or event in ("resumed", "rolled_back") else step - 1
            while history and history[-1]["step"] > last_kept:
                history.pop()
            history.append(record)
        return history


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The run's metrics as one history, see `MetricsLog.history`; empty if there is no file."""
    return read_metrics_log(path).history()


def read_metrics_log(path: Path) -> MetricsLog:
    """Reads a metrics.jsonl that crashes may have torn anywhere, or that does not exist yet.

    Raises:
        UserError: it cannot be read.
    """
    appended: list[dict[str, Any]] = []
    unreadable = 0
    try:
        # Lines end with "\n" alone: JSON strings may hold Unicode's other line separators.
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                if not line.strip():
                    continue
                values, begin = _whole_values(line.strip())
                records = [record for value in values if (record := _as_record(value)) is not None]
                appended += records
                unreadable += begin > 0 or not values or len(records) < len(values)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return MetricsLog(appended, unreadable)


def _whole_values(line: str) -> tuple[list[Any], int]:
    """The JSON values, one right after the other, that a line ends with, and where the first begins.

    A crash can leave half a line, to which the next process's first line was appended.
    """
    begin = 0
    for _ in range(_MAX_BEGINNINGS):
        values, at = [], begin
        # RecursionError: too deeply nested.
        with suppress(ValueError, RecursionError):
            while at < len(line):
                value, at = _DECODER.raw_decode(line, at)
                values.append(value)
            return values, begin
        begin = line.find('{"', begin + 1)
        if begin < 0:
            break
    return [], 0


def _as_record(value: Any) -> dict[str, Any] | None:
    """`value` with its step as an int; None if it is not the record of a step."""
    step = value.get("step") if isinstance(value, dict) else None
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        return None
    return value | {"step": step}


def read_rollbacks(path: Path) -> list[dict[str, Any]]:
    """What a run has gone back from, in order; each has the ``samples`` that are left out since.

    Raises:
        UserError: the file is no such list.
    """
    try:
        rollbacks: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        for each in rollbacks:
            first, last = each["samples"]
            if not 0 <= first <= last:
                raise ValueError(first)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}; it says which samples the run leaves out: restore it"
        ) from None
    return rollbacks


def write_rollbacks(path: Path, rollbacks: list[dict[str, Any]]) -> None:
    """Replaces the file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(rollbacks, ensure_ascii=False, indent=1).encode())
