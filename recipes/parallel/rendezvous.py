"""The store through which launched processes find each other: it says whom it waits for, and gives up."""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist

from recipes.config.world import World
from recipes.console import say
from recipes.errors import UserError

FIRST_WORD_S = 10.0
"""Nobody is told of a wait that is shorter."""
EVERY_S = 60.0
_ARRIVED, _COMPLETE = "arrived", "complete"


def rendezvous(world: World, timeout_s: float) -> dist.Store:
    """A store that all launched processes have reached.

    Args:
        timeout_s: how long to wait for the others.

    Raises:
        UserError: some did not come; rank 0 knows which.
    """
    address = os.environ.setdefault("MASTER_ADDR", socket.gethostname())
    port = int(os.environ.setdefault("MASTER_PORT", "29500"))
    wait = _Wait(timeout_s)
    store = _connect(world, address, port, wait)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # One store for all restarts.
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    store.set(f"{_ARRIVED}/{world.rank}", f"{socket.gethostname()}")
    if world.rank == 0:
        _await_all(world, store, wait)
        store.set(_COMPLETE, "1")
    else:
        _await_word(store, address, port, wait)
    return store


class _Wait:
    """When to speak, and when to give up."""

    def __init__(self, timeout_s: float) -> None:
        self.started = time.monotonic()
        self.timeout_s = timeout_s
        self._next = self.started + FIRST_WORD_S

    def left(self) -> float:
        return self.started + self.timeout_s - time.monotonic()

    def speaks(self) -> bool:
        """Whether it is time for a line; then not again for a while."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + EVERY_S
        return True


def _connect(world: World, address: str, port: int, wait: _Wait) -> dist.Store:
    """torchrun's agent holds the store, otherwise rank 0."""
    holds = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not holds:
        _await_listener(world, address, port, wait)
    try:
        return dist.TCPStore(
            address,
            port,
            is_master=holds,
            timeout=timedelta(seconds=max(FIRST_WORD_S, wait.left())),
            wait_for_workers=False,
        )
    except dist.DistError as error:
        doing = "listen" if holds else "connect"
        reason = str(error).splitlines()[0]
        raise UserError(f"MASTER_PORT={port}: rank {world.rank} cannot {doing} there: {reason}") from None


def _await_listener(world: World, address: str, port: int, wait: _Wait) -> None:
    """By a plain connection: TCPStore's own attempts print pages when they fail."""
    while True:
        try:
            socket.create_connection((address, port), timeout=5.0).close()
            return
        except OSError:
            if wait.left() <= 0:
                raise UserError(
                    f"parallel.rendezvous_timeout_s={wait.timeout_s:g}: rank {world.rank} found no rank 0 at "
                    f"{address}:{port}; was it started, and do MASTER_ADDR and MASTER_PORT lead to it?"
                ) from None
        if wait.speaks():
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
            raise UserError(
                f"parallel.rendezvous_timeout_s={wait.timeout_s:g}: of {world.size} processes "
                f"{len(missing)} did not come: ranks {names}; were they started?"
            )
        if wait.speaks():
            say(f"waiting for ranks {names} of {world.size} processes, {wait.left():.0f} s more")
        time.sleep(0.05)


def _await_word(store: dist.Store, address: str, port: int, wait: _Wait) -> None:
    """Rank 0 says which are missing; here it is enough to go on when all are there."""
    given_up = f"rank 0 at {address}:{port} did not find all processes; its message names the missing"
    try:
        while not store.check([_COMPLETE]):
            if wait.left() <= -FIRST_WORD_S:
                raise UserError(given_up)
            time.sleep(0.05)
    except dist.DistError:  # It has ended, and its store with it.
        raise UserError(given_up) from None
