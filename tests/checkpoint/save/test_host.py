"""Memory for the copies of a save."""

from __future__ import annotations

import mmap

import torch

from recipes.checkpoint.save.host import memory_of, room_for_copies
from recipes.plan.machine import free_bytes, this_host
from tests.support.pool import GlooPool

HAD = 2**30
"""Bytes that a process takes here for a moment."""


def test_every_process_of_the_node_needs_its_own() -> None:
    """Measured on this machine as it is: a tenth of what is free is left alone."""
    free = free_bytes(this_host(), 0)
    assert room_for_copies(0, 1, again=True) and room_for_copies(free // 2, 1, again=True)
    assert not room_for_copies(free // 2, 2, again=True)
    assert not room_for_copies(int(0.97 * free), 1, again=True)


def peak_case() -> list[bool]:
    """In a process that has had some memory and given it back: whether there is room for copies that leave
    half as much.
    """
    had = mmap.mmap(-1, HAD)
    for page in range(0, HAD, mmap.PAGESIZE):
        had[page] = 1
    had.close()
    size = int(0.9 * free_bytes(this_host(), 0)) - HAD // 2
    return [room_for_copies(size, 1, again=again) for again in (True, False)]


def test_what_a_process_has_had_at_most_it_needs_again(gloo_pool: GlooPool) -> None:
    """Unless that was with such copies."""
    assert gloo_pool.run(1, peak_case) == [[True, False]]


def test_what_a_copy_takes() -> None:
    assert memory_of(torch.zeros(3, 5, dtype=torch.bfloat16)) == 30 and memory_of(torch.zeros(0)) == 0
