"""What the sides of the comparison are asked, and the processes that answer."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from recipes.errors import UserError

OURS, HFLM = "ours", "HFLM"
AUTO = 0
"""The size of batches that HFLM finds itself."""
Answers = list[tuple[float, bool]] | list[str]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    weights: Path
    precision: str
    threads: int
    batch_tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Order:
    """Documents first to last - 1 of a kind, in batches of this size (HFLM's)."""

    kind: str
    first: int
    last: int
    batch: int


@dataclass(frozen=True)
class Measured:
    """What an order took, and what was answered."""

    cpu_s: float
    clock_s: float
    search_cpu_s: float
    """Of these: HFLM's search for the size of batches."""
    batch: int
    """The size that was used at last."""
    memory: int
    """The most bytes at once: of the GPU's, or of the process."""
    answers: Answers


class Process:
    """Processes of one side, started with the first order; all get the same orders."""

    def __init__(self, side: str, settings: Settings, count: int = 1) -> None:
        self.side, self.settings, self.count = side, settings, count
        self.connections: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, connection in zip(self.processes, self.connections, strict=True):
            connection.close()  # Which ends it.
            process.join()

    def run(self, order: Order) -> Measured:
        """What the slowest took, and rank 0's answers."""
        if not self.connections:
            self._start()
        for connection in self.connections:
            connection.send(order)
        found = [self._answer(connection, order) for connection in self.connections]
        slowest = max(found, key=lambda measured: measured.cpu_s)
        return Measured(**{**vars(slowest), "answers": found[0].answers})

    def _answer(self, connection: Connection, order: Order) -> Measured:
        try:
            measured: Measured = connection.recv()
        except EOFError:
            batches = f", batches of {order.batch}" if order.batch else ', batch_size="auto"'
            which = f"{self.side}{batches if self.side == HFLM else ''}, {order.kind}"
            raise UserError(
                f"{which}: the process ended, as the kernel ends one when the machine has no more memory: "
                "leave --auto out, or measure smaller batches or a smaller model; with --out the rest is kept"
            ) from None
        return measured

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        env = {} if self.count == 1 else _rendezvous(self.count)
        for rank in range(self.count):
            here, there = spawn.Pipe()
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if env else {}
            process = spawn.Process(target=serve, args=(there, self.side, self.settings, {**env, **ranks}))
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)
        for connection in self.connections:
            connection.recv()


def _rendezvous(count: int) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def serve(connection: Connection, side: str, settings: Settings, env: dict[str, str]) -> None:
    """The process: loads its side, then answers orders until nobody gives any."""
    os.environ.update(env)
    # Before they are imported: some warn as they load.
    from recipes.console import quiet_libraries

    quiet_libraries()
    warnings.simplefilter("ignore")
    from benchmarks.measure.scoring_sides import SIDES

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    ready = SIDES[side](settings)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            connection.send(ready.run(connection.recv()))
