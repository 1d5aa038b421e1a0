"""The manifest that makes a directory a checkpoint: every file's size and SHA-256, written last."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recipes.console import Progress
from recipes.counts import counted
from recipes.errors import UserError
from recipes.files import atomic_write, forget_cached, sha256_file

MANIFEST = "manifest.json"
STEP_DIRECTORY = re.compile(r"step_(\d{8})")


def step_directory(checkpoints: Path, step: int) -> Path:
    """``checkpoints/step_00001000`` for step 1000."""
    return checkpoints / f"step_{step:08d}"


def describe_file(path: Path) -> dict[str, Any]:
    """A manifest's entry for one file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def write_manifest(
    directory: Path, described: Mapping[str, dict[str, Any]] | None = None, **facts: Any
) -> None:
    """Records every file below ``directory``, and ``facts``.

    ``described``: entries that :func:`describe_file` has made already, by path below ``directory``.
    """
    files = dict(described or {})
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_file() and path.name != MANIFEST and name not in files:
            files[name] = describe_file(path)
    files = dict(sorted(files.items()))
    with atomic_write(directory / MANIFEST) as file:
        file.write(json.dumps({"format_version": 1, **facts, "files": files}, indent=2).encode())


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, its files' entries in order; the files themselves are not looked at.

    Raises:
        UserError: there is none, or it is unreadable.
    """
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            if not isinstance(name, str) or {*expected} != {"bytes", "sha256"}:
                raise ValueError(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{directory}: no readable {MANIFEST}, so this is not a finished checkpoint"
        ) from None
    return manifest


def verify(
    directory: Path,
    *,
    sha256: bool = True,
    from_disk: bool = False,
    seen: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Compares every file with the manifest; returns the manifest.

    Args:
        directory: the checkpoint.
        sha256: compare contents; False: only sizes.
        from_disk: read what the disk holds, not what the system still has in memory.
        seen: is told how many bytes have been read since its last call; None: progress is shown.

    Raises:
        UserError: a file is missing or differs; the message names it.
    """
    manifest = read_manifest(directory)
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing; the checkpoint is damaged")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{path} has {size} bytes, the manifest says {expected['bytes']}; it is damaged")
    if sha256:
        total = sum(expected["bytes"] for expected in files.values())
        with Progress(total, label=f"checking {directory.name}", enabled=seen is None) as progress:
            for name, expected in files.items():
                if from_disk:
                    forget_cached(directory / name)
                if sha256_file(directory / name, seen or progress.add) != expected["sha256"]:
                    raise UserError(f"{directory / name} does not have the manifest's SHA-256; it is damaged")
    return manifest


def finished_checkpoints(checkpoints: Path) -> list[Path]:
    """Directories with a manifest, oldest first. Others are not checkpoints."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if STEP_DIRECTORY.fullmatch(path.name)]
    return sorted(path for path in found if (path / MANIFEST).is_file())


def newest_whole_checkpoint(checkpoints: Path, warn: Any, *, sha256: bool = True) -> Path | None:
    """The newest checkpoint that passes :func:`verify`; ``warn`` is called for each that is passed over.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    candidates = finished_checkpoints(checkpoints)
    for path in reversed(candidates):
        try:
            verify(path, sha256=sha256)
            return path
        except UserError as error:
            warn(f"{path.name} is passed over: {error}")
    if candidates:
        raise UserError(
            f"{checkpoints}: none of {counted(len(candidates), 'checkpoint')} is whole; "
            "move the directory away to start anew"
        )
    return None


def partial_checkpoints(checkpoints: Path) -> Iterable[Path]:
    """The directories of saves that have not ended, and of deletions."""
    return checkpoints.glob(".step_*.partial")


def remove_partial(checkpoints: Path) -> None:
    """Deletes what an interrupted save, or an interrupted deletion, left behind."""
    for path in partial_checkpoints(checkpoints):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints.glob("step_*"):
        if STEP_DIRECTORY.fullmatch(path.name) and not (path / MANIFEST).is_file():
            shutil.rmtree(path, ignore_errors=True)


def set_aside_newer(checkpoints: Path, whole: Path, why: str = "damaged") -> None:
    """Renames the checkpoints after ``whole`` to ``damaged_step_*``, or what else they are.

    Under their own names they would count among the newest to keep, and would never be written again.
    """
    for path in finished_checkpoints(checkpoints):
        if path.name > whole.name:
            set_aside(path, why)


def set_aside(checkpoint: Path, why: str = "damaged") -> Path:
    """Renames a checkpoint so that it is none any more; returns its new name."""
    aside = checkpoint.with_name(f"{why}_{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)
