"""trainer.deterministic: the same numbers to the bit in every run, and a proof before the first step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recipes.checkpoint.save.ranks import all_agree
from recipes.errors import UserError
from recipes.training.engine import Engine

# Read by libraries when they start: before the first use of the device.
ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NCCL_ALGO": "Ring",  # NCCL chooses by measuring otherwise, and sums in another order.
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
}


def set_deterministic(on: bool) -> None:
    """Makes torch, cuBLAS, NCCL and Transformer Engine repeat themselves; off: torch's defaults."""
    if on:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(on)
    # Nothing here reads memory that it has not written, so it need not be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def gradients_twice(engine: Engine, gradients: Callable[[], Any]) -> Any:
    """Computes a step's gradients two times; what ``gradients`` returns.

    Raises:
        UserError: a rank's gradients are not the same to the bit. Every rank raises it.
    """
    module = engine.ddp.module
    # Experts count their tokens in the forward pass.
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    gradients()
    first = _checksums(engine)
    for buffer, value in before:
        buffer.copy_(value)
    outputs = gradients()
    if not all_agree(bool(torch.equal(first, _checksums(engine)))):
        raise UserError(
            "trainer.deterministic=true: the first step's gradients, computed twice, differ: an operation of "
            "this model on this device sums in an order that changes; set it to false"
        )
    return outputs


def _checksums(engine: Engine) -> Tensor:
    """A sum of the bits of each gradient buffer, int64."""
    buffers = engine.ddp.buffers + engine.ddp.expert_parallel_buffers
    sums = []
    for buffer in buffers:
        integer = torch.int32 if buffer.grad_data.element_size() == 4 else torch.int16
        sums.append(buffer.grad_data.view(integer).sum(dtype=torch.int64))
    return torch.stack(sums)
