"""What a save copies from a GPU while it goes on computing."""

from __future__ import annotations

import pytest
import torch

from recipes.checkpoint.save.host import HostCopies, memory_of, room_for_copies
from recipes.plan.machine import free_bytes, this_host
from tests.support.cuda import NEEDS_CUDA

pytestmark = NEEDS_CUDA
CYCLES = 400_000_000
"""A fifth of a second and more."""


@pytest.mark.parametrize("stream", ["default", "of its own"])
def test_host_and_device_go_on(stream: str) -> None:
    """Neither waits for the copies but what is launched after hold_back, which may then write."""
    training = torch.cuda.default_stream() if stream == "default" else torch.cuda.Stream()
    with torch.cuda.stream(training):
        tensor = torch.zeros(16 * 2**20, device="cuda")
        other = torch.zeros(1, device="cuda")
        HostCopies().copy(tensor)  # Pinned memory is allocated, which waits for the device.
        torch.cuda.synchronize()
        torch.cuda._sleep(CYCLES)
        tensor.fill_(1.0)
        copies = HostCopies()
        host = copies.copy(tensor)
        assert host.is_pinned()
        other.fill_(1.0)
        assert not copies._made.query(), "the device is still asleep"
        copies.hold_back()
        tensor.fill_(2.0)
        copies.wait()
        assert host.eq(1.0).all() and tensor.eq(2.0).all()


def test_a_temporary_lives_until_it_is_copied() -> None:
    torch.cuda.synchronize()
    size = 64 * 2**20
    HostCopies().copy(torch.zeros(size, device="cuda"))
    torch.cuda.synchronize()
    torch.cuda._sleep(CYCLES)
    copies = HostCopies()
    host = copies.copy(torch.full((size,), 3.0, device="cuda"))
    others = [torch.full((size,), 4.0, device="cuda") for _ in range(2)]
    copies.wait()
    torch.cuda.synchronize()
    assert host.eq(3.0).all() and all(other.eq(4.0).all() for other in others)


def test_pinned_memory_is_allocated_once() -> None:
    sizes = [5, 1_000_000, 3_000_001]
    tensors = [torch.zeros(size, device="cuda") for size in sizes]
    allocated = []
    for save in range(4):
        copies = HostCopies()
        hosts = [copies.copy(tensor) for tensor in tensors]
        copies.wait()
        allocated.append(torch.cuda.host_memory_stats()["num_host_alloc"])
        assert all(host.eq(save).all() for host in hosts)
        for tensor in tensors:
            tensor += 1
        del hosts
    assert allocated[-1] == allocated[0]


def test_memory_of_pinned_copies() -> None:
    """Of a power of two; what torch has kept of an earlier save is there for the next."""
    before = torch.cuda.host_memory_stats()["active_bytes.current"]
    host = HostCopies().copy(torch.zeros(5 * 2**28 // 4, device="cuda"))
    torch.cuda.synchronize()
    size = memory_of(host)
    assert size == 2**31 == torch.cuda.host_memory_stats()["active_bytes.current"] - before
    asked = int(0.9 * free_bytes(this_host(), 0)) + 2**30
    assert not room_for_copies(asked, 1, again=True)
    del host
    assert room_for_copies(asked, 1, again=True), "torch has kept 2 GiB, and all else is as before"
