"""How fast the links between a few processes are, by an all-reduce, counted as nccl-tests counts it."""

from __future__ import annotations

import time
from datetime import timedelta
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from recipes.config.world import World
from recipes.parallel.rendezvous import open_store
from recipes.parallel.setup import device_of

SMALLEST = 2**20
LARGEST = {"cuda": 2**30, "cpu": 2**24}
"""Bytes of a message. Links are used in full from some 100 MB on; gloo is soon as fast as it gets."""
REPEATS = 5
ENOUGH_S = 4.0
"""Slow links are known by their first, small messages: after so many seconds no larger one follows."""


def bus_bandwidth(size: int, seconds: float, processes: int) -> float:
    """What every link carries, whatever the number of processes, to be compared with the link's own speed.

    Args:
        size: bytes that each process has.

    Returns:
        GB/s: size / seconds * 2 (n - 1) / n (doc/PERFORMANCE.md of NVIDIA's nccl-tests).
    """
    return size / seconds * 2 * (processes - 1) / processes / 1e9


def measure_all_reduce(world: World, group: str, timeout_s: float, answer: Connection) -> None:
    """One process's part in a group; to be run in a process of its own, which may be killed.

    Args:
        world: the group's processes; ``local_rank`` is the GPU.
        group: a name that no other group of the same store has.
        answer: is sent the highest bus bandwidth over all sizes of messages, in GB/s.
    """
    store = dist.PrefixStore(group, open_store(world, timeout_s, hosts=False))
    device, limit = device_of(world), timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=limit)
    fastest = _fastest(device)
    # A process that leaves early may still owe its neighbours the end of the last message.
    store.set(f"done/{world.rank}", "")
    store.wait([f"done/{rank}" for rank in range(world.size)], limit)
    answer.send(fastest)


def _fastest(device: torch.device) -> float:
    fastest, size, spent = 0.0, SMALLEST, 0.0
    while size <= LARGEST[device.type] and spent < ENOUGH_S:
        seconds = _seconds(size, device)
        fastest = max(fastest, bus_bandwidth(size, seconds, dist.get_world_size()))
        spent += seconds * REPEATS
        size *= 4
    return fastest


def _seconds(size: int, device: torch.device) -> float:
    """Of one all-reduce, the slowest process's mean: all processes get the same answer."""
    message = torch.zeros(size // 4, dtype=torch.float32, device=device)
    dist.all_reduce(message)  # The first one connects.
    _finish(device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        dist.all_reduce(message)
    _finish(device)
    taken = torch.tensor((time.perf_counter() - began) / REPEATS, dtype=torch.float64, device=device)
    dist.all_reduce(taken, op=dist.ReduceOp.MAX)
    return float(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
