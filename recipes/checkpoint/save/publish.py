"""The atomic order of a save: a partial name, the manifest last, then the real name."""

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
from recipes.files import fsync_directory


def new_partial(directory: Path) -> Path:
    """An empty directory to write into, beside ``directory``; all ranks agree that it is there.

    Raises:
        UserError: the disk refuses. Every rank raises it.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    failure = None
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        advice = "earlier checkpoints are untouched"
        failure = failure_of(lambda: partial.mkdir(parents=True), directory, advice)
    raise_together(failure)
    return partial


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
        fsync_directory(partial, strict=True)
        if directory.exists():  # Without a manifest, or it would not be written again.
            shutil.rmtree(directory)
        partial.rename(directory)
        fsync_directory(directory.parent, strict=True)

    try:
        save.finish(rename)
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # Gone already if all went well.
