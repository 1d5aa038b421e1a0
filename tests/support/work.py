"""What worker processes of tests do; imports nothing, for they start often."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from recipes.errors import UserError


def make_worker(kind: str) -> Callable[[Any], Any]:
    return {
        "double": lambda number: 2 * number,
        "slow_when_even": slow_when_even,
        "large": lambda size: bytes(size),
        "length": lambda data: len(data),
        "refuse_seven": refuse_seven,
        "divide": lambda number: 1 / number,
        "die_later": die_later,
        "process": lambda _: os.getpid(),
    }[kind]


def slow_when_even(number: int) -> int:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return number


def refuse_seven(number: int) -> int:
    if number >= 7:
        raise UserError(f"not {number}")
    return number


def die_later(seconds: float) -> bytes:
    """A large result, and death while it is written."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(64 << 20)
