"""Ports for processes that are about to start."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """Below the range from which the system gives ports to whoever asks for any."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
