"""Which code this is: the version, the commit where it runs from a git checkout, and its libraries."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 30


@cache
def code_version() -> dict[str, Any]:
    """``version``; ``commit`` and whether tracked files were ``modified``: None outside of a checkout."""
    try:
        release = version("param-recipes")
    except PackageNotFoundError:
        release = None
    # A checkout of something else around an installed package says nothing about it.
    if _git("rev-parse", "--show-toplevel") != str(ROOT):
        return {"version": release, "commit": None, "modified": None}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "version": release,
        "commit": _git("rev-parse", "HEAD"),
        "modified": None if changes is None else bool(changes),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git(*arguments: str) -> str | None:
    """What git says; None where there is no git, or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=_PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
