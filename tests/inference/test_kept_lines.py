"""A file of results after an interruption at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import UserError
from recipes.inference.kept_lines import KeptLines

LINES = ["first", "zweite", "तीसरी"]


class Interrupted(Exception):
    """Stands for any."""


def write(path: Path, *, until: int = len(LINES), of: object = "prompts") -> int:
    """Writes the lines that are missing; how many were kept."""
    with KeptLines(path, of) as kept:
        for line in LINES[kept.done : until]:
            kept.append(line)
        if until < len(LINES):
            raise Interrupted
        return kept.done


def test_interrupted_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted):
        write(path, until=2)
    partial = tmp_path / "out.jsonl.partial"
    assert not path.exists()
    written = partial.read_bytes()
    header = written.index(b"\n") + 1
    for length in range(len(written) + 1):
        partial.write_bytes(written[:length])
        assert write(path) == written[header:length].count(b"\n")
        assert path.read_text(encoding="utf-8").splitlines() == LINES and not partial.exists()
        path.unlink()


def test_results_of_something_else_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted):
        write(path, until=1)
    with pytest.raises(UserError, match=r"out\.jsonl\.partial holds results of other prompts"):
        write(path, of="other prompts")
    assert write(path) == 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second one is refused, and leaves the lines of the first as they are."""
    path = tmp_path / "new" / "out.jsonl"
    partial = path.with_name("out.jsonl.partial")
    with KeptLines(path, "prompts") as kept:
        kept.append(LINES[0])
        before = partial.read_bytes()
        for of in ("prompts", "other prompts"):
            with pytest.raises(UserError, match=r"partial is being written by another process; wait for"):
                KeptLines(path, of)
        assert partial.read_bytes() == before
    assert path.read_text() == "first\n"
    with pytest.raises(UserError, match=r"out\.jsonl is there already: choose another file, output_jsonl="):
        KeptLines(path, "prompts")
    assert [file.name for file in path.parent.iterdir()] == ["out.jsonl"]
