"""The manifest that makes a directory a checkpoint: every file's size and SHA-256, written last."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from recipes.errors import UserError
from recipes.files import atomic_write, sha256_file

MANIFEST = "manifest.json"
STEP_DIRECTORY = re.compile(r"step_(\d{8})")


def step_directory(checkpoints: Path, step: int) -> Path:
    """``checkpoints/step_00001000`` for step 1000."""
    return checkpoints / f"step_{step:08d}"


def write_manifest(directory: Path, **facts: Any) -> None:
    """Records every file below ``directory``, and ``facts``."""
    files = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    with atomic_write(directory / MANIFEST) as file:
        file.write(json.dumps({"format_version": 1, **facts, "files": files}, indent=2).encode())


def verify(directory: Path) -> dict[str, Any]:
    """Compares every file with the manifest; returns the manifest.

    Raises:
        UserError: a file is missing or differs; the message names it.
    """
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
        files = manifest["files"].items()
    except (OSError, ValueError, KeyError, AttributeError):
        raise UserError(f"{directory}: no readable {MANIFEST}, so this is no finished checkpoint") from None
    for name, expected in files:
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing; the checkpoint is damaged")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{path} has {size} bytes, the manifest says {expected['bytes']}; it is damaged")
        if sha256_file(path) != expected["sha256"]:
            raise UserError(f"{path} does not have the manifest's SHA-256; it is damaged")
    return manifest


def finished_checkpoints(checkpoints: Path) -> list[Path]:
    """Directories with a manifest, oldest first. Others do not exist as far as anybody is concerned."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if STEP_DIRECTORY.fullmatch(path.name)]
    return sorted(path for path in found if (path / MANIFEST).is_file())


def newest_whole_checkpoint(checkpoints: Path, warn: Any) -> Path | None:
    """The newest checkpoint whose every file is as recorded; ``warn`` is told of each that is passed over.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    candidates = finished_checkpoints(checkpoints)
    for path in reversed(candidates):
        try:
            verify(path)
            return path
        except UserError as error:
            warn(f"{path.name} is passed over: {error}")
    if candidates:
        raise UserError(
            f"{checkpoints}: none of the {len(candidates)} checkpoints is whole; "
            "move the directory away to start anew"
        )
    return None


def remove_partial(checkpoints: Path) -> None:
    """Deletes what an interrupted save left behind."""
    for path in checkpoints.glob(".step_*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def keep_newest(checkpoints: Path, count: int) -> None:
    """Deletes all but the newest ``count`` finished checkpoints."""
    for path in finished_checkpoints(checkpoints)[:-count]:
        # The manifest goes first: a half-deleted directory is then no checkpoint.
        (path / MANIFEST).unlink()
        shutil.rmtree(path)
