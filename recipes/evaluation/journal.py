"""The answers of an evaluation, kept as they come, so that one that was interrupted goes on; without torch.

`<results>.unfinished-<identity>/` lies beside the results' file while an evaluation runs. Each process
appends to a file of its own, a line per unit of work: {"unit": its digest, "answers": [[request, answer],
...]}. A unit's digest covers the tokens that the model reads and what they are read for, so that after any
change of questions, tokenizer or sizes of batches nothing is taken for an answer that was asked otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from recipes.files import make_directory, path_errors

Answers = dict[int, Any]
"""Request -> what the model answered."""

SYNC_EVERY_S = 5.0
"""What a machine's failure may cost; a killed process loses no whole unit."""


def journal_directory(results: Path, identity: Mapping[str, Any]) -> Path:
    """Where the unfinished answers of exactly this evaluation are kept."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return results.with_name(f"{results.stem}.unfinished-{digest[:12]}")


def read_journal(directory: Path) -> dict[str, Answers]:
    """The answers to every unit that was finished, whichever process did it. Torn lines are left out.

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, Answers] = {}
    for path in sorted(directory.glob("*.jsonl")):
        with path_errors(path):
            lines = path.read_bytes().splitlines()
        for line in lines:
            try:
                unit = json.loads(line)
                answers = {request: _as_answered(answer) for request, answer in unit["answers"]}
            except (ValueError, KeyError, TypeError):  # The process was killed as it wrote.
                continue
            found[unit["unit"]] = answers
    return found


def _as_answered(answer: Any) -> Any:
    return tuple(answer) if isinstance(answer, list) else answer


class JournalWriter:
    """Appends one process's answers to its file of a journal, which the first of them makes.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, directory: Path, process: int) -> None:
        self._path = directory / f"{process}.jsonl"
        self._synced = time.monotonic()

    @cached_property
    def _stream(self) -> BinaryIO:
        make_directory(self._path.parent)
        stream = self._path.open("ab")
        if stream.tell():  # Whose last line may be torn.
            stream.write(b"\n")
        return stream

    def add(self, unit: str, answers: Answers) -> None:
        """Keeps the answers to one unit."""
        line = json.dumps({"unit": unit, "answers": list(answers.items())}, ensure_ascii=False)
        with path_errors(self._path):
            self._stream.write(line.encode("utf-8", "surrogatepass") + b"\n")
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()


def remove_journal(directory: Path) -> None:
    """After the results are written, which hold all that it held."""
    shutil.rmtree(directory, ignore_errors=True)
