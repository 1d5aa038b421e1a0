"""SwiGLU's gradient as a Triton kernel. Imported on GPUs alone: torch brings no Triton for the CPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024


def swiglu_gradient_on_gpu(gate_and_up: Tensor, gradient: Tensor) -> Tensor:
    """See :func:`recipes.model.swiglu.swiglu_gradient`; computed in fp32."""
    found = torch.empty_like(gate_and_up)
    width = gradient.shape[-1]
    grid = gradient.numel() // width, triton.cdiv(width, COLUMNS)
    with torch.cuda.device(gradient.device):
        _gradient[grid](gate_and_up, gradient, found, width, COLUMNS)
    return found


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gradient(gate_and_up, gradient, found, width, columns: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < width
    first = row * 2 * width + column
    gate = tl.load(gate_and_up + first, inside).to(tl.float32)
    up = tl.load(gate_and_up + first + width, inside).to(tl.float32)
    slope = tl.load(gradient + row * width + column, inside).to(tl.float32)
    share = tl.sigmoid(gate)
    of_gate = slope * up * share * (1 + gate * (1 - share))
    tl.store(found + first, of_gate.to(found.dtype.element_ty), inside)
    tl.store(found + first + width, (slope * gate * share).to(found.dtype.element_ty), inside)
