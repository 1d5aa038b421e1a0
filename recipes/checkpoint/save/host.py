"""Copies of tensors in host memory that training does not change."""

from __future__ import annotations

import functools
import resource

import psutil
import torch
from torch import Tensor

from recipes.plan.machine import free_bytes, this_host
from recipes.plan.saves import LEFT_FREE


class HostCopies:
    """The copies of one save. A GPU makes them beside training, on a stream of their own.

    They are of what is there once all that is launched so far has been done. Until they are made, nobody may
    write to the tensors, see :meth:`hold_back`, or read the copies, see :meth:`wait`.
    """

    def __init__(self) -> None:
        self._stream = _copy_stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        # Whoever waits is to sleep: the thread that writes shares the processor with the one that trains.
        self._made = torch.cuda.Event(blocking=True)
        self._made.record(self._stream)

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy with memory of its own, at once where the tensor is in host memory already.

        Pinned memory is kept by torch for the next save: allocating it takes longer than copying.
        """
        tensor = tensor.detach()
        if tensor.device.type == "cpu":
            return tensor.clone()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        # Its memory is not given to others before, should nobody else keep it.
        tensor.record_stream(self._stream)
        self._made.record(self._stream)
        return host

    def hold_back(self) -> None:
        """What is launched from now on begins once the copies are made. The host does not wait."""
        torch.cuda.current_stream().wait_event(self._made)

    def wait(self) -> None:
        """The host waits until the copies are made."""
        self._made.synchronize()


def memory_of(copy: Tensor) -> int:
    """Bytes that it takes: torch rounds blocks of pinned memory up to powers of two."""
    return 1 << max(0, copy.nbytes - 1).bit_length() if copy.is_pinned() else copy.nbytes


def room_for_copies(size: int, processes: int, *, again: bool) -> bool:
    """Whether each of this node's processes can have copies that take so many bytes, and come again to what
    it has had at most.

    Of all ranks, the one with the most decides: the others of its node are taken to need as much.

    Args:
        again: it has had them beside those of now, so that they are part of that most.
    """
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    to_come = max(0, most - psutil.Process().memory_info().rss)
    needed = max(size, to_come) if again else size + to_come
    if torch.cuda.is_available():  # Blocks that torch has kept from earlier saves, where it counts them.
        stats = torch.cuda.host_memory_stats()
        owned = stats.get("allocated_bytes.current", 0)
        needed -= owned - stats.get("active_bytes.current", owned)
    return needed * processes <= (1 - LEFT_FREE) * free_bytes(this_host(), 0)


@functools.cache
def _copy_stream() -> torch.cuda.Stream:
    # One for all saves: torch has 32, and gives the same again, training's too.
    return torch.cuda.Stream()
