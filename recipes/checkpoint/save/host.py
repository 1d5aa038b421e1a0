"""Copies of tensors in host memory that training does not change."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


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


@functools.cache
def _copy_stream() -> torch.cuda.Stream:
    # One for all saves: torch has 32, and gives the same again, training's too.
    return torch.cuda.Stream()
