"""SwiGLU's and GEGLU's gradient as a Triton kernel. Imported on GPUs alone: torch has no Triton for CPUs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024


def gated_gradient_on_gpu(
    gate_and_up: Tensor, gradient: Tensor, gelu: tuple[float, float] | None = None
) -> Tensor:
    """See :func:`recipes.model.swiglu.gated_gradient`; computed in fp32.

    Args:
        gelu: scale and cube of GELU's tanh form; None: the gate is SiLU.
    """
    found = torch.empty_like(gate_and_up)
    width = gradient.shape[-1]
    grid = gradient.numel() // width, triton.cdiv(width, COLUMNS)
    with torch.cuda.device(gradient.device):
        _gradient[grid](gate_and_up, gradient, found, width, COLUMNS, *(gelu or (0.0, 0.0)))
    return found


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gradient(  # type: ignore[no-untyped-def]
    gate_and_up,
    gradient,
    found,
    width,
    columns: tl.constexpr,
    gelu_scale: tl.constexpr,
    gelu_cube: tl.constexpr,
):
    """Of SwiGLU where ``gelu_scale`` is 0."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < width
    first = row * 2 * width + column
    gate = tl.load(gate_and_up + first, inside).to(tl.float32)
    up = tl.load(gate_and_up + first + width, inside).to(tl.float32)
    slope = tl.load(gradient + row * width + column, inside).to(tl.float32)
    if gelu_scale == 0:
        share = tl.sigmoid(gate)
        of_gate = slope * up * share * (1 + gate * (1 - share))
    else:
        square = gate * gate
        share = tl.sigmoid(gelu_scale * gate * (1 + gelu_cube * square))
        rise = gelu_scale * (1 + 3 * gelu_cube * square)
        of_gate = slope * up * share * (1 + gate * (1 - share) * rise)
    tl.store(found + first, of_gate.to(found.dtype.element_ty), inside)
    tl.store(found + first + width, (slope * gate * share).to(found.dtype.element_ty), inside)
