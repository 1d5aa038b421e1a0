"""Cases on processes under gloo: each a fork of one that has imported the engine, ended after its case."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

from tests.support.ports import free_port

TIMEOUT_S = 600


def process_context() -> BaseContext:
    """Makes processes that begin with what :mod:`tests.support.preload` imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preload"])
    return context


class CaseFailed(AssertionError):
    """A process raised; the message is its traceback."""


class GlooPool:
    """Starts the processes of a case, which see torchrun's environment, and ends them after it.

    None is used twice: a finished run leaves its model, its process groups and their threads behind, for
    megatron-core, Lightning and autograd hold each other.
    """

    def run(self, world_size: int, case: Callable[..., Any], *args: Any) -> list[Any]:
        """Calls ``case(*args)`` in ``world_size`` processes.

        Returns:
            What each rank returned.
        """
        context, port = process_context(), free_port()
        rank_of: dict[Connection, int] = {}
        processes = []
        try:
            for rank in range(world_size):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, rank, world_size, port, case, args))
                process.start()
                theirs.close()
                processes.append(process)
                rank_of[ours] = rank
            return _results(rank_of)
        finally:
            for process in processes:
                process.kill()  # SIGTERM means: save first.
                process.join()


def _results(rank_of: dict[Connection, int]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(rank_of):
        ready = wait([c for c, rank in rank_of.items() if rank not in results], TIMEOUT_S)
        if not ready:
            missing = sorted(set(rank_of.values()) - set(results))
            raise CaseFailed(f"ranks {missing} gave no answer in {TIMEOUT_S} s")
        for connection in ready:
            rank = rank_of[connection]
            try:
                succeeded, result = connection.recv()
            except EOFError:
                raise CaseFailed(f"rank {rank} has died") from None
            if not succeeded:  # The other ranks may be waiting for this one for ever.
                raise CaseFailed(f"rank {rank}:\n{result}")
            results[rank] = result
    return [results[rank] for rank in range(len(rank_of))]


def _serve(
    connection: Connection,
    rank: int,
    world_size: int,
    port: int,
    case: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
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
    connection.recv()  # Until all ranks have answered: rank 0 holds the store. The pool ends this process.
