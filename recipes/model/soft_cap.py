"""Soft-capped logits: ``cap * tanh(logits / cap)`` in fp32, in as little memory as the loss allows."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.jit import jit_fuser
from torch import Tensor
from torch.autograd.function import once_differentiable


class SoftCap(torch.autograd.Function):
    """Keeps only the tanh for the backward pass.

    Logits are by far the largest tensors of a small model, and on the CPU allocating one costs more than its
    arithmetic: written plainly, this made seven of them. It makes one, and overwrites fp32 logits, which
    are not read again. megatron-core's cross entropy overwrites what this returns.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, cap: float) -> Tensor:
        """``[...]`` -> ``[...]`` in fp32."""
        tanh = _tanh(logits.detach().float(), cap)
        ctx.save_for_backward(tanh)
        ctx.dtype = logits.dtype
        return tanh * cap

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The derivative is ``1 - tanh^2``."""
        (tanh,) = ctx.saved_tensors
        return _times_derivative(gradient, tanh).to(ctx.dtype), None


@jit_fuser
def _tanh(logits: Tensor, cap: float) -> Tensor:
    return logits.div_(cap).tanh_()


@jit_fuser
def _times_derivative(gradient: Tensor, tanh: Tensor) -> Tensor:
    # Overwrites the tanh: the backward pass runs only once.
    return tanh.square_().neg_().add_(1.0).mul_(gradient)
