"""The store through which launched processes find each other; waiting is reported and limited in time."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from recipes.config.world import World, first_node
from recipes.console import say
from recipes.errors import RendezvousError

FIRST_REPORT_S = 10.0
"""Shorter waits are not reported."""
REPORT_EVERY_S = 60.0
_ARRIVED, _COMPLETE = "arrived", "complete"


def rendezvous(world: World, timeout_s: float) -> dist.Store:
    """A store that all launched processes have reached.

    Args:
        timeout_s: how long to wait for the others.

    Raises:
        RendezvousError: some did not arrive; rank 0 knows which.
    """
    wait = _Wait(timeout_s)
    address, port = _place()
    store = _connect(world, address, port, wait, hosts=world.rank == 0)
    store.set(f"{_ARRIVED}/{world.rank}", f"{socket.gethostname()}")
    if world.rank == 0:
        _await_all(world, store, wait)
        store.set(_COMPLETE, "1")
    else:
        _await_complete(store, address, port, wait)
    return store


def open_store(world: World, timeout_s: float, *, hosts: bool) -> dist.Store:
    """The same store, whoever else has reached it.

    Args:
        hosts: this process keeps it, unless torchrun does.

    Raises:
        RendezvousError: it is not there within ``timeout_s``.
    """
    return _connect(world, *_place(), _Wait(timeout_s), hosts=hosts)


def _place() -> tuple[str, int]:
    address = os.environ.setdefault("MASTER_ADDR", first_node() or socket.gethostname())
    return address, int(os.environ.setdefault("MASTER_PORT", "29500"))


class _Wait:
    """When to report, and when to give up."""

    def __init__(self, timeout_s: float) -> None:
        self.started = time.monotonic()
        self.timeout_s = timeout_s
        self._next_report = self.started + FIRST_REPORT_S

    def left(self) -> float:
        return self.started + self.timeout_s - time.monotonic()

    def report_due(self) -> bool:
        """Whether it is time for a line of output; if so, the next one is due a while later."""
        if time.monotonic() < self._next_report:
            return False
        self._next_report = time.monotonic() + REPORT_EVERY_S
        return True


def _connect(world: World, address: str, port: int, wait: _Wait, *, hosts: bool) -> dist.Store:
    """torchrun's agent hosts the store if there is one."""
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = hosts and not of_agent
    if not is_host:
        _await_listener(world, address, port, wait)
    try:
        store: dist.Store = dist.TCPStore(
            address,
            port,
            is_master=is_host,
            timeout=timedelta(seconds=max(FIRST_REPORT_S, wait.left())),
            wait_for_workers=False,
        )
    except dist.DistError as error:
        action = "listen" if is_host else "connect"
        reason = str(error).splitlines()[0]
        raise RendezvousError(
            f"MASTER_PORT={port}: rank {world.rank} cannot {action} there: {reason}"
        ) from None
    if not of_agent:
        return store
    # All restarts share one store.
    return dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _await_listener(world: World, address: str, port: int, wait: _Wait) -> None:
    """Waits for rank 0 with plain connections, as TCPStore's own attempts print pages when they fail."""
    while True:
        try:
            with socket.create_connection((address, port), timeout=5.0) as probe:
                # The system may give this very port to a client of the same machine, which then meets itself.
                if probe.getsockname() == probe.getpeername():
                    raise ConnectionRefusedError
            return
        except OSError:
            if wait.left() <= 0:
                raise RendezvousError(
                    f"parallel.rendezvous_timeout_s={wait.timeout_s:g}: rank {world.rank} found no rank 0 at "
                    f"{address}:{port}; was it started, and do MASTER_ADDR and MASTER_PORT lead to it?"
                ) from None
        if wait.report_due():
            say(f"rank {world.rank}: waiting for rank 0 at {address}:{port}, {wait.left():.0f} s more")
        time.sleep(0.1)


def _await_all(world: World, store: dist.Store, wait: _Wait) -> None:
    missing = list(range(world.size))
    while True:
        missing = [rank for rank in missing if not store.check([f"{_ARRIVED}/{rank}"])]
        if not missing:
            return
        names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        if wait.left() <= 0:
            raise RendezvousError(
                f"parallel.rendezvous_timeout_s={wait.timeout_s:g}: of {world.size} processes "
                f"{len(missing)} did not come: ranks {names}; were they started?"
            )
        if wait.report_due():
            say(f"waiting for ranks {names} of {world.size} processes, {wait.left():.0f} s more")
        time.sleep(0.05)


def _await_complete(store: dist.Store, address: str, port: int, wait: _Wait) -> None:
    """Waits until rank 0 has found all processes; rank 0 itself reports which are missing."""
    given_up = f"rank 0 at {address}:{port} did not find all processes; its message names the missing"
    try:
        while not store.check([_COMPLETE]):
            if wait.left() <= -FIRST_REPORT_S:
                raise RendezvousError(given_up)
            time.sleep(0.05)
    except dist.DistError:  # Rank 0 has ended, and its store with it.
        raise RendezvousError(given_up) from None
