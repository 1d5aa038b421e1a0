"""Keeps a run from deleting a checkpoint that somebody reads."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import BinaryIO

from recipes.checkpoint.save.manifest import MANIFEST
from recipes.errors import UserError
from recipes.files import LockHeld, exclusive_lock


def hold(checkpoint: Path) -> BinaryIO:
    """While the returned file is open, no run deletes the checkpoint, where the file system has locks.

    Raises:
        UserError: it has just been deleted, or cannot be read.
    """
    deleted = UserError(
        f"{checkpoint}: has just been deleted, as its run keeps newer ones; name one of these"
    )
    try:
        manifest = (checkpoint / MANIFEST).open("rb")
    except FileNotFoundError:
        raise deleted from None
    except OSError as error:
        raise UserError(f"{checkpoint / MANIFEST}: cannot be read: {error.strerror}") from None
    try:
        fcntl.flock(manifest, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # Its run is about to delete it.
            manifest.close()
            raise deleted from None
    if not (checkpoint / MANIFEST).exists():  # Deleted between the two calls.
        manifest.close()
        raise deleted
    return manifest


def delete_unless_held(checkpoint: Path) -> bool:
    """Deletes a checkpoint's manifest, which ends its being one; False if somebody reads it."""
    # Writable, as NFS gives exclusive locks on no other file.
    with (checkpoint / MANIFEST).open("r+b") as manifest:
        try:
            exclusive_lock(manifest)
        except LockHeld:
            return False
        (checkpoint / MANIFEST).unlink()
    return True
