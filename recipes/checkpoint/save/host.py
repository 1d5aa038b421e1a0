"""Copies of tensors in host memory that training does not change."""

from __future__ import annotations

import torch
from torch import Tensor


def host_copy(tensor: Tensor) -> Tensor:
    """A copy with memory of its own. A GPU's is complete after ``torch.cuda.synchronize()``.

    Pinned memory is kept by torch for the next save: allocating it takes longer than copying.
    """
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        return tensor.clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
