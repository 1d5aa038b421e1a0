"""A pool of processes under gloo that import the engine once and run one parallel case after another."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 120
# A finished run leaves its model and process groups behind (megatron-core, Lightning and autograd hold each
# other), and gloo's threads wake a hundred times a second each: a worker with thousands of them takes a core.
MOST_THREADS = 500


class CaseFailed(AssertionError):
    """A worker raised; the message is its traceback."""


class GlooPool:
    """Starts workers as cases need them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, world_size: int, case: Callable[..., Any], *args: Any) -> list[Any]:
        """Calls ``case(*args)`` in ``world_size`` processes that see torchrun's environment.

        Returns:
            What each rank returned.
        """
        if any(_threads(process.pid) > MOST_THREADS for process, _ in self._workers):
            self.close()
        while len(self._workers) < world_size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=False)
            process.start()
            self._workers.append((process, ours))
        port = _free_port()
        for rank in range(world_size):
            self._workers[rank][1].send((rank, world_size, port, case, args))
        results: dict[int, Any] = {}
        rank_of = {self._workers[rank][1]: rank for rank in range(world_size)}
        while len(results) < world_size:
            ready = wait([c for c, rank in rank_of.items() if rank not in results], TIMEOUT_S)
            if not ready:
                self.close()
                missing = sorted(set(range(world_size)) - set(results))
                raise CaseFailed(f"ranks {missing} gave no answer in {TIMEOUT_S} s")
            for connection in ready:
                succeeded, result = connection.recv()
                if not succeeded:
                    self.close()  # The other ranks may be waiting for this one for ever.
                    raise CaseFailed(f"rank {rank_of[connection]}:\n{result}")
                results[rank_of[connection]] = result
        return [results[rank] for rank in range(world_size)]

    def close(self) -> None:
        """Ends all workers."""
        for process, connection in self._workers:
            connection.close()
            process.kill()  # SIGTERM means: save first.
            process.join()
        self._workers = []


def _threads(process_id: int) -> int:
    return sum(1 for _ in Path(f"/proc/{process_id}/task").iterdir())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(connection: Connection) -> None:
    import torch

    from recipes.parallel import cpu_stand_in

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        cpu_stand_in.install()
    while True:
        try:
            rank, world_size, port, case, args = connection.recv()
        except EOFError:
            return
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        try:
            connection.send((True, case(*args)))
        except BaseException:
            connection.send((False, traceback.format_exc()))
