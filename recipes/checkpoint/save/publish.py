"""What makes a save atomic: a temporary name, the manifest last, then the real name."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from recipes.checkpoint.save.disk import failure_of
from recipes.checkpoint.save.manifest import write_manifest
from recipes.checkpoint.save.ranks import raise_together
from recipes.checkpoint.save.sharded_save import Files, ShardedSave
from recipes.files import partial_path, put_in_place


def new_partial(target: Path, advice: str, folder: str = "") -> Path:
    """An empty directory beside ``target`` for all ranks to write into; called by all of them together.

    Args:
        target: The file or directory that it will become.
        advice: How error messages end.
        folder: A folder to create in it.

    Raises:
        UserError: the disk refuses. Every rank raises it.
    """
    partial = partial_path(target)
    failure = None
    if dist.get_rank() == 0:
        discard_partial(partial)
        failure = failure_of(lambda: (partial / folder).mkdir(parents=True), target, advice)
    raise_together(failure)
    return partial


def discard_partial(partial: Path) -> None:
    """Removes the directory of :func:`new_partial`, unless it has become a checkpoint."""
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)


def publish(save: ShardedSave, partial: Path, directory: Path, facts: Mapping[str, Any]) -> None:
    """Gives a written checkpoint its manifest and then its name; called by all ranks together.

    Args:
        save: What has been written into ``partial``.
        facts: What else goes into the manifest.

    Raises:
        UserError: a rank could not write; nothing is left behind. Every rank raises it.
    """

    def rename(files: Files) -> None:
        write_manifest(partial, files, **facts)
        # An existing one has no manifest, or it would not be written again.
        put_in_place(partial, directory, replace=True, strict=True)

    try:
        save.finish(rename)
    finally:
        discard_partial(partial)
