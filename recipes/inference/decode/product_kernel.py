"""The product of few rows with a whole weight as a Triton kernel.

A step of one token reads every weight once and does little else, so a kernel has to keep the memory busy: its
loop only loads and multiplies, and is pipelined for that. Norms and sums stand in norm_kernel.py. Imported on
GPUs alone: torch brings no Triton for the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.inference.decode.early_start import prefetch, starts_early, wait_for_earlier
from recipes.inference.decode.shared_memory import shared_memory

PLAIN, SILU, TANH_GELU = 0, 1, 2
MOST_ROWS = 64
"""With more rows torch's products are as fast: then it is arithmetic that takes the time."""
TILE = 64
"""Rows of the weight in one program: the least that Hopper's asynchronous tensor cores take."""
STEP_BYTES = 256
"""Of each of these rows in one step of the loop: 16 KB of weights."""
PROGRAMS = 256
"""Two for each of an H200's multiprocessors fit at the same time, and no third."""
MULTIPROCESSORS = 132
STAGES, STAGES_ALONE, STAGES_OF_MANY = 5, 6, 3
"""Steps on their way: of two programs on a multiprocessor; of one that has it for itself; of many programs,
which start one after another and share it by threes. Fewer where the shared memory has no room for them."""
AHEAD = 4
"""Steps that a program asks for while the kernel before runs: as much as the memory brings in that time."""
PARTS = (4, 2)
"""Into how many parts a sum may be cut, each of which is written and read."""
MANY_OUTPUTS = 32768


def product_parts(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows weight^T`` in parts along the sum, which whoever reads them adds: ``[parts, b, out]`` in fp32.

    Weights with few rows would occupy few multiprocessors, were their columns not shared among more.

    Args:
        rows: ``[b, in]``, contiguous; b is at most MOST_ROWS.
        weight: ``[out, in]``, contiguous.
    """
    tiles = triton.cdiv(weight.shape[0], TILE)
    steps = triton.cdiv(weight.shape[1], _block_inner(weight))
    # Each part has four steps or more.
    parts = next((n for n in PARTS if tiles * n <= PROGRAMS and steps >= 4 * n), 1)
    out = torch.empty(parts, len(rows), weight.shape[0], dtype=torch.float32, device=rows.device)
    _launch(rows, weight, out, parts, PLAIN)
    return out


def whole_product(rows: Tensor, weight: Tensor, gate: int = PLAIN) -> Tensor:
    """``act(rows weight^T)``, computed in fp32, ``[b, out]``.

    Args:
        rows: ``[b, in]``, contiguous; b is at most MOST_ROWS.
        weight: ``[out, in]``, contiguous; ``[2 out, in]``, gates first, if ``gate`` is not PLAIN.
        gate: the activation of the gates.
    """
    outer = weight.shape[0] if gate == PLAIN else weight.shape[0] // 2
    out = torch.empty(len(rows), outer, dtype=rows.dtype, device=rows.device)
    _launch(rows, weight, out, 1, gate)
    return out


def _block_inner(weight: Tensor) -> int:
    return max(32, min(STEP_BYTES // weight.element_size(), triton.next_power_of_2(weight.shape[1])))


def _launch(rows: Tensor, weight: Tensor, out: Tensor, parts: int, gate: int) -> None:
    count, inner = rows.shape
    outer = out.shape[-1]
    block_inner = _block_inner(weight)
    early, even, many = starts_early(rows.device), inner % block_inner == 0, outer >= MANY_OUTPUTS
    # Most of many programs start when nothing is left to wait for.
    ahead = AHEAD * block_inner if even and not many and weight.data_ptr() % 16 == 0 else 0
    tiles, block_rows = triton.cdiv(weight.shape[0], TILE), max(16, triton.next_power_of_2(count))
    stages = STAGES_OF_MANY if many else STAGES_ALONE if tiles * parts <= MULTIPROCESSORS else STAGES
    step_bytes = (TILE + block_rows) * block_inner * weight.element_size()
    _product[(tiles, parts)](
        *(rows, weight, out, count, outer, inner, triton.cdiv(triton.cdiv(inner, block_inner), parts)),
        block_rows=block_rows,
        block_outer=TILE,
        block_inner=block_inner,
        even=even,
        gate=gate,
        early=early,
        ahead=ahead,
        precision="ieee" if weight.dtype == torch.float32 else "tf32",
        num_warps=4,
        num_stages=min(stages, shared_memory(rows.device) // step_bytes),
        launch_pdl=early,
    )


# One kernel for every number of rows: a single row would be compiled on its own.
@triton.jit(do_not_specialize=["count", "steps"])  # type: ignore[untyped-decorator, unused-ignore]
def _product(  # type: ignore[no-untyped-def] # noqa: ANN
    rows,
    weight,
    out,
    count,
    outer,
    inner,
    steps,
    block_rows: tl.constexpr,
    block_outer: tl.constexpr,
    block_inner: tl.constexpr,
    even: tl.constexpr,
    gate: tl.constexpr,
    early: tl.constexpr,
    ahead: tl.constexpr,
    precision: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(1)
    index = tl.arange(0, block_outer)
    if gate == 0:
        source = tl.minimum(tile * block_outer + index, outer - 1)
    else:
        # A gate's row, and then its partner's: one product makes both.
        source = tl.minimum((tile * block_outer + index) // 2, outer - 1) + (index % 2) * outer
    row, place = tl.arange(0, block_rows), tl.arange(0, block_inner)
    is_row = row[None, :] < count
    of_weight = weight + source.to(tl.int64)[:, None] * inner + place[None, :]
    of_rows = rows + row[None, :] * inner + place[:, None]
    total = tl.zeros((block_outer, block_rows), tl.float32)
    first = part * steps * block_inner
    last = tl.minimum(first + steps * block_inner, inner)
    if early:
        if ahead > 0:
            size = tl.minimum(last - first, ahead) * (weight.dtype.element_ty.primitive_bitwidth // 8)
            prefetch(weight + source.to(tl.int64) * inner + first, size)
        wait_for_earlier()
    for start in range(first, last, block_inner):
        if even:
            matrix = tl.load(of_weight + start)
            x = tl.load(of_rows + start, mask=is_row, other=0.0)
        else:
            within = start + place < inner
            matrix = tl.load(of_weight + start, mask=within[None, :], other=0.0)
            x = tl.load(of_rows + start, mask=is_row & within[:, None], other=0.0)
        total = tl.dot(matrix, x, total, input_precision=precision)
    if gate == 0:
        output = tile * block_outer + index
        result = total
    else:
        pairs = tl.permute(tl.reshape(total, (block_outer // 2, 2, block_rows)), (0, 2, 1))
        opened, up = tl.split(pairs)
        if gate == 1:
            result = opened * tl.sigmoid(opened) * up
        else:
            # tanh(y) = 2 sigmoid(2 y) - 1, so (1 + tanh(y)) / 2 = sigmoid(2 y).
            cubic = 0.7978845608028654 * (opened + 0.044715 * opened * opened * opened)
            result = opened * tl.sigmoid(2.0 * cubic) * up
        output = tile * (block_outer // 2) + tl.arange(0, block_outer // 2)
    target = (part * count + row[None, :]) * outer + output[:, None]
    tl.store(out + target, result.to(out.dtype.element_ty), mask=is_row & (output[:, None] < outer))
