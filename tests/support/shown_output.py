"""What pages show as the output of a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PLAN = r"python -m tools\.plan (?![^\n]*(?:--search|--measure|--json))"
IN_FENCES = re.compile(rf"^    ({PLAN}[^\n]*)\n\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BELOW_PROMPT = re.compile(
    rf"^    \$ ((?:{PLAN}|python -m recipes\.pretrain(?=[^\n]*dry_run=true))[^\n]*)\n((?:    .*\n)+)",
    re.MULTILINE,
)
LEFT_OUT = "..."


class Output(NamedTuple):
    """A command and lines of what it prints."""

    command: str
    lines: list[str]


def shown_plans(page: str) -> Iterator[Output]:
    """Plans of a page with what is shown of them, in fences or below a prompt."""
    page = page.replace("\\\n", " ")
    for command, block in IN_FENCES.findall(page):
        yield Output(command, block.splitlines())
    for command, block in BELOW_PROMPT.findall(page):
        yield Output(command, [line[4:] for line in block.splitlines()])


def first_stale(shown: list[str], printed: list[str]) -> str | None:
    """The first line that is not printed where it is shown; ``...`` stands for any number of lines."""
    place, may_skip = 0, False
    for line in shown:
        if line.strip() == LEFT_OUT:
            may_skip = True
            continue
        rest = [each.rstrip() for each in printed[place:]]
        if line.rstrip() not in (rest if may_skip else rest[:1]):
            return line
        place += rest.index(line.rstrip()) + 1
        may_skip = False
    return None
