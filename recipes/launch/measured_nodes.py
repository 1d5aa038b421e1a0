"""All processes of a job meet, and those of some nodes at a time measure how fast their links are."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from typing import TYPE_CHECKING

from recipes.config.world import World
from recipes.console import say
from recipes.launch.slow_nodes import Group, Measured

if TYPE_CHECKING:
    from torch.distributed import Store

MEET_S = 120.0
"""For the processes of all nodes to start, from a shared file system or in containers."""
MEASURE_S = 60.0
"""For one measurement, which takes a few seconds."""
LEAVE_S = 10.0
"""For the other processes to hear that nothing is left to do."""


@dataclass(frozen=True)
class Node:
    """This process, and the store in which all processes meet. Nodes are numbered as their ranks are."""

    world: World
    store: Store

    @property
    def number(self) -> int:
        return self.world.rank // self.world.local_size

    def arrive(self) -> None:
        """Tells rank 0 that this process is there, and where."""
        self.store.set(_arrived(self.world.rank), os.environ.get("SLURMD_NODENAME") or os.uname().nodename)

    def follow(self) -> None:
        """Does what rank 0 asks for, to the end."""
        for turn in count():
            groups = json.loads(self.store.get(f"groups/{turn}"))
            if not groups:
                self.store.add("left", 1)
                return
            self.take_part(turn, map(tuple, groups))

    def take_part(self, turn: int, groups: Iterable[Group]) -> None:
        """Measures with the group that this node is in, if it is in one."""
        processes = self.world.local_size
        for group in groups:
            if self.number not in group:
                continue
            rank = group.index(self.number) * processes + self.world.local_rank
            world = World(rank, self.world.local_rank, len(group) * processes, processes)
            speed = _measured_apart(world, f"{turn}/{group[0]}")
            if rank == 0:
                self.store.set(f"speed/{turn}/{group[0]}", json.dumps(speed))


class AllNodes:
    """Rank 0's view of those that have arrived.

    Attributes:
        names: of the nodes all of whose processes are there.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._turns = node, count()
        self._there: set[int] = set()
        self.names = self._await_nodes()

    def measure(self, groups: list[Group]) -> Measured:
        """All groups at the same time."""
        store, turn = self._node.store, next(self._turns)
        store.set(f"groups/{turn}", json.dumps(groups))
        began = time.monotonic()
        self._node.take_part(turn, groups)
        measured: dict[Group, float | None] = {}
        for group in groups:
            key = f"speed/{turn}/{group[0]}"
            # The group's own limit, and a while for starting and ending its processes.
            while not (told := store.check([key])) and time.monotonic() - began < 1.5 * MEASURE_S:
                time.sleep(0.05)
            measured[group] = json.loads(store.get(key)) if told else None
        return measured

    def end(self) -> None:
        """Lets the other processes go, and waits for it: the store ends with this one."""
        store, began = self._node.store, time.monotonic()
        store.set(f"groups/{next(self._turns)}", "[]")
        while store.add("left", 0) < len(self._there) - 1 and time.monotonic() - began < LEAVE_S:
            time.sleep(0.05)

    def _await_nodes(self) -> dict[int, str]:
        store, world, began = self._node.store, self._node.world, time.monotonic()
        every = set(range(world.size))
        while self._there < every and time.monotonic() - began < MEET_S:
            self._there |= {rank for rank in every - self._there if store.check([_arrived(rank)])}
            time.sleep(0.05)
        if missing := sorted(every - self._there):
            names = ", ".join(map(str, missing[:16])) + (", ..." if len(missing) > 16 else "")
            say(f"of {world.size:,} processes {len(missing):,} did not come: ranks {names}")
        absent = {rank // world.local_size for rank in missing}
        return {
            number: store.get(_arrived(number * world.local_size)).decode()
            for number in range(world.size // world.local_size)
            if number not in absent
        }


def _arrived(rank: int) -> str:
    return f"arrived/{rank}"


def _measured_apart(world: World, group: str) -> float | None:
    """GB/s of this process's group, measured in a process that can be killed: a collective over a broken link
    may never end. None: it did not, or failed."""
    from recipes.parallel.all_reduce import measure_all_reduce

    context = get_context("forkserver")
    context.set_forkserver_preload(["recipes.parallel.all_reduce"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=measure_all_reduce, args=(world, group, MEASURE_S, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return float(ours.recv()) if ours.poll(MEASURE_S) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join(LEAVE_S)
