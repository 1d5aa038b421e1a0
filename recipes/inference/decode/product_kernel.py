"""The product of few rows with a whole weight as a Triton kernel, with what comes before and after it.

A step of one token reads every weight once and does little else, so a kernel has to keep the memory busy, and
there should be few kernels. The norm before a product, the gated activation, and the sum with the residual
stream are thus part of it. Imported on GPUs alone: torch brings no Triton for the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PLAIN, SILU, TANH_GELU = 0, 1, 2
MOST_ROWS = 64
"""With more rows torch's products are as fast: then it is arithmetic that takes the time."""


def fused_product(
    rows: Tensor,
    weight: Tensor,
    *,
    norm: bool = False,
    gain: Tensor | None = None,
    eps: float = 0.0,
    gate: int = PLAIN,
    residual: Tensor | None = None,
) -> Tensor:
    """``act(norm(rows) weight^T) + residual``, computed in fp32, ``[b, out]``.

    Args:
        rows: ``[b, in]``, contiguous; b is at most MOST_ROWS.
        weight: ``[out, in]``, contiguous; ``[2 out, in]``, gates first, if ``gate`` is not PLAIN.
        norm: RMSNorm with ``gain`` ``[in]`` (None: without) and ``eps`` before the product.
        gate: the activation of the gates.
        residual: ``[b, out]``.
    """
    count, inner = rows.shape
    outer = weight.shape[0] if gate == PLAIN else weight.shape[0] // 2
    out = torch.empty(count, outer, dtype=rows.dtype, device=rows.device)
    block_rows = max(16, triton.next_power_of_2(count))
    block_outer, block_inner = _blocks(outer, inner, weight.element_size(), gate != PLAIN)
    grid = (triton.cdiv(outer, block_outer),)
    _product[grid](
        *(rows, weight, gain, residual, out, count, outer, inner, eps),
        block_rows=block_rows,
        block_outer=block_outer,
        block_inner=block_inner,
        even=outer % block_outer == 0 and inner % block_inner == 0,
        norm=norm,
        gate=gate,
        precision="ieee" if weight.dtype == torch.float32 else "tf32",
        num_warps=4,
        num_stages=4,
    )
    return out


def _blocks(outer: int, inner: int, itemsize: int, gated: bool) -> tuple[int, int]:
    """Outputs of one program, and the step along the sum.

    Little's law: 4.8 TB/s at 0.7 microseconds are 3.4 MB on their way, 25 KB for each of 132 multiprocessors.
    Small outputs are cut as small as tensor cores allow, so that all multiprocessors have a part.
    """
    block_outer = 64 if outer >= 32768 else 16
    bytes_per_step = (8192 if not gated and outer < 32768 else 4096) * (block_outer // 16)
    block_inner = min(bytes_per_step // (block_outer * itemsize), triton.next_power_of_2(inner))
    return block_outer, max(32, block_inner)


# One kernel for every number of rows: a single row would be compiled on its own.
@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator, unused-ignore]
def _product(  # type: ignore[no-untyped-def] # noqa: ANN
    rows,
    weight,
    gain,
    residual,
    out,
    count,
    outer,
    inner,
    eps,
    block_rows: tl.constexpr,
    block_outer: tl.constexpr,
    block_inner: tl.constexpr,
    even: tl.constexpr,
    norm: tl.constexpr,
    gate: tl.constexpr,
    precision: tl.constexpr,
):
    outputs = tl.program_id(0).to(tl.int64) * block_outer + tl.arange(0, block_outer)
    row = tl.arange(0, block_rows)
    is_row = row[None, :] < count
    is_output = outputs[:, None] < outer
    total = tl.zeros((block_outer, block_rows), tl.float32)
    up_total = tl.zeros((block_outer, block_rows), tl.float32)
    squares = tl.zeros((block_inner, block_rows), tl.float32)  # Summed once: that takes all threads.
    for start in range(0, inner, block_inner):
        place = start + tl.arange(0, block_inner)
        within = place < inner
        where = outputs[:, None] * inner + place[None, :]
        if even:
            matrix = tl.load(weight + where)
        else:
            matrix = tl.load(weight + where, mask=is_output & within[None, :], other=0.0)
        x = tl.load(rows + row[None, :] * inner + place[:, None], mask=is_row & within[:, None], other=0.0)
        if norm:
            wide = x.to(tl.float32)
            squares += wide * wide
            if gain is not None:
                wide *= tl.load(gain + place, mask=within, other=0.0).to(tl.float32)[:, None]
            x = wide.to(matrix.dtype)
        total = tl.dot(matrix, x, total, input_precision=precision)
        if gate != 0:
            if even:
                up = tl.load(weight + outer * inner + where)
            else:
                up = tl.load(weight + outer * inner + where, mask=is_output & within[None, :], other=0.0)
            up_total = tl.dot(up, x, up_total, input_precision=precision)
    if norm:
        # The norm's factor is the row's: it may be multiplied after the product.
        factor = tl.rsqrt(tl.sum(squares, axis=0) / inner + eps)[None, :]
        total *= factor
        up_total *= factor
    if gate == 1:
        total = total * tl.sigmoid(total) * up_total
    if gate == 2:
        # tanh(y) = 2 sigmoid(2 y) - 1, so (1 + tanh(y)) / 2 = sigmoid(2 y).
        cubic = 0.7978845608028654 * (total + 0.044715 * total * total * total)
        total = total * tl.sigmoid(2.0 * cubic) * up_total
    target = row[None, :] * outer + outputs[:, None]
    if residual is not None:
        total += tl.load(residual + target, mask=is_row & is_output, other=0.0).to(tl.float32)
    tl.store(out + target, total.to(out.dtype.element_ty), mask=is_row & is_output)
