"""Starts this same command once per rank, on this machine, for jobs that a model is too large for alone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO

POLL_S = 0.1
PATIENCE_S = 5.0
_STARTED_HERE = "RECIPES_STARTED_HERE"
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when the one that started it ends."""


def run_in_processes(count: int) -> int:
    """Runs this process's own command in ``count`` processes with torchrun's environment variables.

    Rank 0 has this terminal; what another one says is shown only if it fails while rank 0 does not.

    However this process ends, those end with it.

    Returns:
        Rank 0's exit code, or that of the first rank to fail; the others are then ended. Of one that a signal
        has ended, what a shell says: 128 and the signal's number, even if others have failed for want of it.
    """
    command = [sys.executable, *sys.orig_argv[1:]]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    environment = os.environ | shared | {"MASTER_PORT": str(_free_port()), _STARTED_HERE: "1"}
    handled = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Every process gets Ctrl-C itself.
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        try:
            for rank, output in enumerate(said):
                ranked = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(_started(command, ranked, None if rank == 0 else output))
            failed = _wait(processes)
            if failed:
                said[failed].seek(0)
                sys.stderr.buffer.write(said[failed].read())
            return _exit_code(failed, processes)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
                process.wait()
            signal.signal(signal.SIGINT, handled)


@contextlib.contextmanager
def named_first() -> Iterator[None]:
    """In such a process: holds up what the sudden end of another one may have caused.

    The other one is named meanwhile, and this one ended: a lost connection's traceback says less.
    """
    try:
        yield
    except RuntimeError:  # As torch.distributed's are.
        if _STARTED_HERE in os.environ:
            time.sleep(10 * POLL_S)
        raise


def _started(
    command: list[str], environment: dict[str, str], output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=None if output is None else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        # Loaded here: a fork should do as little as it can.
        preexec_fn=partial(_prepare, os.getpid(), getattr(ctypes.CDLL(None), "prctl", None)),
    )


def _prepare(parent: int, prctl: Callable[[int, int], int] | None) -> None:
    """In the new process, before its program starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # A process passes on what it ignores.
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # It has ended meanwhile.
            os.kill(os.getpid(), signal.SIGTERM)


def _exit_code(rank: int, processes: list[subprocess.Popen[bytes]]) -> int:
    """That of a rank that has ended; if a signal has ended it, nobody else says so."""
    code: int = processes[rank].returncode
    if code >= 0:
        return code
    number = -code
    if number not in (signal.SIGINT, signal.SIGTERM):
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        why = ": the kernel does that when memory runs out; dmesg tells" if number == signal.SIGKILL else ""
        print(f"error: rank {rank} of {len(processes)} processes was ended by {name}{why}", file=sys.stderr)
    return 128 + number


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Until all have ended or one has failed; which one's end counts."""
    while True:
        codes = [process.poll() for process in processes]
        killed = [rank for rank, code in enumerate(codes) if code is not None and code < -signal.SIGINT]
        if killed:  # The others lose their connections to it, and say only that.
            return killed[0]
        if codes[0] is not None and (codes[0] != 0 or all(code is not None for code in codes)):
            return next((rank for rank, code in enumerate(codes) if code), 0)
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[0].wait(PATIENCE_S)  # It has the terminal, and says why if it fails, too.
            return 0 if processes[0].returncode else failed[0]
        time.sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
