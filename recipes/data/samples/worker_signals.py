"""Signals that stop a trainer in good order must not take its data loader's workers first.

Slurm, systemd, ``timeout``, torchrun and Ctrl-C in a terminal signal every process of a job. A worker that
dies of it takes the run with it, before the checkpoint is written.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""What a trainer finishes its step and saves for."""


@contextmanager
def held_back() -> Iterator[None]:
    """Stop signals wait for the end of the block; processes forked in it hold them back from their start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_only_the_trainer(worker: int) -> None:
    """In a worker, before its first sample: stop signals end it only if its own parent sent them.

    That is how torch ends workers that did not see the end of the data. A parent that is gone ends them too:
    torch's workers look for it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    parent = os.getppid()
    threading.Thread(target=_wait_for_the_parents_word, args=(parent,), daemon=True).start()


def _wait_for_the_parents_word(parent: int) -> None:
    while True:
        if signal.sigwaitinfo(STOP_SIGNALS).si_pid == parent:
            os._exit(0)
