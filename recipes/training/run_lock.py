"""One process at a time in a run directory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from recipes.console import say
from recipes.files import LockHeld, exclusive_lock, make_directory

LOCK_FILE = ".lock"
PATIENCE_S = 30.0
# A job cannot be retried by hand, and a file server releases a lost node's lock only after minutes.
PATIENCE_OF_A_JOB_S = 300.0


class RunLock:
    """Keeps other runs out of a run directory, from :meth:`acquire` until :meth:`release`.

    The kernel also releases it however the process ends.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._descriptor: int | None = None

    def acquire(self, patience_s: float | None = None) -> None:
        """Takes the lock, waiting for a process that may be about to end, as with a job requeued early.

        Does nothing if it is held already.

        Args:
            patience_s: how long to wait; None: half a minute, or five minutes under Slurm.

        Raises:
            LockHeld: the other process still holds it.
        """
        if self._descriptor is not None:
            return
        if patience_s is None:
            patience_s = PATIENCE_OF_A_JOB_S if "SLURM_JOB_ID" in os.environ else PATIENCE_S
        make_directory(self.directory)
        # A directory that cannot be written has no lock, and neither has a file system without locks.
        with suppress(OSError):
            self._descriptor = os.open(self.directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        if self._descriptor is None:
            return
        path = self.directory
        try:
            exclusive_lock(
                self._descriptor,
                f"{path} is being written by another process; wait for its end, or choose another name",
                # A data loader's worker is forked and may briefly outlive a killed run: it must not hold
                # the lock that the requeued run waits for. Hence a record lock (fcntl.lockf).
                inherited=False,
                patience_s=patience_s,
                on_wait=lambda: say(
                    f"{path} is in use by another process; waiting up to {patience_s:.0f} s for its end"
                ),
            )
        except LockHeld:
            self.release()
            raise

    def release(self) -> None:
        """Releases the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
