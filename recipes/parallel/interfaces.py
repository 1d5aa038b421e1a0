"""Whether this machine has a network interface, which torch.distributed needs even for one process."""

from __future__ import annotations

import socket
import struct
import sys

from recipes.errors import UserError

NO_INTERFACE = (
    "no network interface is up on this machine, and torch.distributed needs one even for a single process: "
    "bring up the loopback, ip link set lo up"
)
_GET_FLAGS, _UP = 0x8913, 0x1  # SIOCGIFFLAGS, IFF_UP
_NAME_BYTES = 16


def check_interfaces() -> None:
    """Before torch is imported and a model read, which may take minutes.

    Raises:
        UserError: surely none is up.
    """
    if sys.platform == "linux" and not any(_is_up(name) for _, name in socket.if_nameindex()):
        raise UserError(NO_INTERFACE)


def _is_up(name: str) -> bool:
    """Also where that cannot be found out."""
    import fcntl

    request = struct.pack(f"{_NAME_BYTES}sh22x", name.encode(), 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _GET_FLAGS, request)
    except OSError:
        return True
    flags: int = struct.unpack_from("h", answer, _NAME_BYTES)[0]
    return bool(flags & _UP)
