"""Memory for the copies of a save."""

from __future__ import annotations

import torch

from recipes.checkpoint.save.host import memory_of, room_for_copies
from recipes.plan.machine import free_bytes, this_host


def test_every_process_of_the_node_needs_its_own() -> None:
    """Measured on this machine as it is: a tenth of what is free is left alone."""
    free = free_bytes(this_host(), 0)
    assert room_for_copies(0, 8) and room_for_copies(free // 2, 1)
    assert not room_for_copies(free // 2, 2) and not room_for_copies(int(0.97 * free), 1)


def test_what_a_copy_takes() -> None:
    assert memory_of(torch.zeros(3, 5, dtype=torch.bfloat16)) == 30 and memory_of(torch.zeros(0)) == 0
