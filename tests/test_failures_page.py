"""docs/failures.md quotes what is printed, and leaves out nothing that a run can end or warn with."""

from __future__ import annotations

import re

import pytest

from tests.support.messages import GAP, Call, calls, parts_of, source_of
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/failures.md").read_text(encoding="utf-8")
HEADS = ("line", "the last line says")
"""Of the columns whose spans are lines that somebody has seen."""
PREFIX = re.compile(r"^(error|warning|stopped by a guard): ")
"""What recipes.cli, recipes.console and recipes.training.fit put before a message."""
RUNNING = ("recipes/training", "recipes/parallel", "recipes/checkpoint/save", "recipes/checkpoint/local")
ASKED_FOR = "recipes/training/callbacks/faults.py"


def quoted() -> list[str]:
    lines, column = [], None
    for row in PAGE.splitlines():
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        heads = [cells.index(head) for head in HEADS if head in cells]
        if heads or not cells:
            column = heads[0] if heads else None
        elif column is not None:
            lines += re.findall(r"`([^`]+)`", cells[column])
    return lines


@pytest.mark.parametrize("line", quoted())
def test_a_quoted_line_is_printed_somewhere(line: str) -> None:
    message = PREFIX.sub("", line)
    assert source_of(message) or (message == GAP and PREFIX.match(line)), "no file holds all parts of it"


@pytest.mark.parametrize("call", calls(RUNNING, ("warn", "GuardError", "RendezvousError")), ids=str)
def test_whatever_ends_or_worries_a_run_is_explained(call: Call) -> None:
    parts = parts_of(call.message)
    explained = any(all(part in line for part in parts) for line in quoted())
    assert explained or call.place.startswith(ASKED_FOR)


def test_a_line_that_nobody_prints_is_found() -> None:
    assert source_of("step ... skipped: the gradient norm is ...; samples ... to ...")
    assert source_of("step ... skipped: the gradient norm was ...; samples ... to ...") is None
    assert source_of("...") is None
