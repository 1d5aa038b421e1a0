"""Which code a run is made with."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("param-recipes", "torch", "megatron-core", "nemo_toolkit", "lightning", "transformer-engine")
ROOT = Path(__file__).resolve().parents[2]


@cache
def code_version() -> dict[str, str | bool]:
    """Versions of Python and of the packages that figures depend on; of a git checkout also its commit.

    ``modified``: whether tracked files differ from the commit.
    """
    found: dict[str, str | bool] = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    # Installed into somebody's repository, this code has no commit of its own.
    if (ROOT / ".git").exists() and (commit := _git("rev-parse", "HEAD")) is not None:
        found["commit"] = commit
        found["modified"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return found


def _git(*arguments: str) -> str | None:
    """What git answers; None if it is not there or refuses."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
