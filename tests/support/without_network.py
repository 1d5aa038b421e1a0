"""Runs a module and ends it if it looks for a network: python -m tests.support.without_network MODULE ...

That is: looks a name up, or connects to anywhere but this machine. In a network namespace of its own, where
only the loopback device is, it brings that up first, as on every machine: process groups need an address.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import shutil
import socket
import struct
import subprocess
import sys
from typing import Any

FOUND = 99
NAMESPACE = ["unshare", "--map-root-user", "--net"]
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING


def namespaces_permitted() -> bool:
    """Whether a process may have a network namespace of its own here."""
    return (
        shutil.which(NAMESPACE[0]) is not None
        and subprocess.run([*NAMESPACE, "true"], stderr=subprocess.DEVNULL).returncode == 0
    )


def bring_loopback_up() -> None:
    """Needs the rights that the first process of a namespace has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP_AND_RUNNING))


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Ends this process at the first attempt."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        place = arguments[1][0]
    else:
        return
    if place not in ("127.0.0.1", "::1", "localhost", socket.gethostname()):
        os.write(2, f"looked for {place}\n".encode())
        os._exit(FOUND)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "--namespace":
        bring_loopback_up()
        sys.argv = sys.argv[1:]
    sys.addaudithook(refuse)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
