"""Reading numbers in pieces where they cannot be read into place: into another type, onto another device."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

PIECE = 4 << 20
"""Bytes read at once. A thread takes that much host memory beside the tensor's; for a GPU, twice that."""


class Staging(threading.local):
    """Two buffers per thread: while a GPU still copies one piece, the next is read from the file."""

    def __init__(self) -> None:
        self._buffers: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self._turn = 0

    def buffer(self, nbytes: int, device: torch.device) -> Tensor:
        """``[nbytes]`` of uint8 whose content is no longer needed; pinned if it is meant for a GPU."""
        on_gpu = device.type == "cuda"
        if (
            not self._buffers
            or self._buffers[0][0].is_pinned() != on_gpu
            or len(self._buffers[0][0]) < nbytes
        ):
            size = max(nbytes, PIECE)
            # A single buffer for the CPU: it has been read out when the next one is asked for.
            self._buffers = [
                (torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=on_gpu), None)
                for _ in range(2 if on_gpu else 1)
            ]
        self._turn = (self._turn + 1) % len(self._buffers)
        buffer, copied = self._buffers[self._turn]
        if copied is not None:
            copied.synchronize()
        return buffer[:nbytes]

    def copy(self, buffer: Tensor, out: Tensor, dtype: torch.dtype, strides: tuple[int, ...]) -> None:
        """Starts copying ``out``'s elements, of this type and with these strides, out of the buffer."""
        # Everything goes over as it is and is converted there: a conversion on this side would wait.
        flat = buffer.view(dtype).to(out.device, non_blocking=True)
        out.copy_(flat.as_strided(out.shape, strides))
        if out.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self._buffers[self._turn] = self._buffers[self._turn][0], event
