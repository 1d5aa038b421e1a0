"""Numbers of a step that the host reads while the device already has the next step."""

from __future__ import annotations

import torch
from torch import Tensor


class Fetched:
    """A tensor on its way to the host."""

    def __init__(self, numbers: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = numbers.detach()
        if numbers.is_cuda:
            self._host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._host.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def number(self) -> float:
        """The tensor's only element; waits for the step that computes it, and for nothing after it."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._host.numpy().reshape(()))
