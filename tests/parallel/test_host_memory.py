"""Freed memory that stays with the process, counted in pages that the system had to give it anew."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

ROUNDS = """
import ctypes, resource, sys
from recipes.parallel.host_memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
libc.free.argtypes = (ctypes.c_void_p,)

def step():
    pieces = [libc.malloc(size) for _ in range(5)]
    for piece in pieces:
        libc.memset(piece, 1, size)
    for piece in pieces:
        libc.free(piece)

size = 24 << 20
if sys.argv[1] == "keep":
    keep_freed_memory()
step()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of_a_step(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", ROUNDS, how], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's default is meant")
def test_the_next_step_gets_the_pages_of_the_last() -> None:
    assert 10 * faults_of_a_step("keep") < faults_of_a_step("default")
