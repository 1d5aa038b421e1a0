"""The atomic order of a save: a partial name, the manifest last, then the real name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from recipes.checkpoint.disk import NOTHING_LEFT, disk_errors
from recipes.checkpoint.manifest import write_manifest
from recipes.checkpoint.safety import reason
from recipes.errors import UserError
from recipes.files import fsync_directory


def new_partial(directory: Path) -> Path:
    """An empty directory to write into, beside ``directory``; all ranks agree that it is there."""
    partial = directory.with_name(f".{directory.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        with disk_errors(directory, "earlier checkpoints are untouched"):
            partial.mkdir(parents=True)
    dist.barrier()
    return partial


def failure_of(write: Callable[[], object], partial: Path, directory: Path) -> str | None:
    """Calls ``write``. If a rank's writer fails, megatron-core tells all ranks: what went wrong, then.

    Raises:
        UserError: this rank alone failed; what it has written is removed.
    """
    try:
        with disk_errors(directory, NOTHING_LEFT):
            write()
    except BaseException as error:
        if isinstance(error, CheckpointException):
            return f"{directory}: cannot be saved: {reason(error)}; {NOTHING_LEFT}"
        if isinstance(error, UserError) and isinstance(error.__cause__, CheckpointException):
            return str(error)
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return None


def publish(partial: Path, directory: Path, facts: Mapping[str, Any], failure: str | None = None) -> None:
    """Gives a written checkpoint its manifest and then its name; called by all ranks.

    Args:
        facts: What else goes into the manifest.
        failure: Why there is nothing to publish; rank 0's counts.

    Raises:
        UserError: ``failure``, or the disk refuses; nothing is left behind. Every rank raises it.
    """
    if dist.get_rank() == 0:
        try:
            if failure is None:
                with disk_errors(directory, NOTHING_LEFT):
                    _rename(partial, directory, facts)
        except UserError as error:
            failure = str(error)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # Gone already if all went well.
    if dist.get_world_size() > 1:
        answer = [failure]
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        failure = answer[0]
    if failure is not None:
        raise UserError(failure)


def _rename(partial: Path, directory: Path, facts: Mapping[str, Any]) -> None:
    write_manifest(partial, **facts)
    fsync_directory(partial, strict=True)
    if directory.exists():  # Without a manifest, or it would not be written again.
        shutil.rmtree(directory)
    partial.rename(directory)
    fsync_directory(directory.parent, strict=True)
