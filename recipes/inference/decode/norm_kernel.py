"""What stands between the products of a step, as one Triton kernel: the residual sum and the norms around it.

Imported on GPUs alone: torch brings no Triton for the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.inference.decode.early_start import starts_early, wait_for_earlier
from recipes.inference.decode.norm import Norm


def add_and_norm(
    hidden: Tensor, parts: Tensor | None, after: Norm | None, norm: Norm | None
) -> tuple[Tensor, Tensor]:
    """Adds a sub-layer's output to the residual stream, and norms the stream for the next one.

    Args:
        hidden: the residual stream ``[b, h]``, contiguous; with parts, written two kernels before or earlier.
        parts: the output is their sum, ``[parts, b, h]``, contiguous; None: nothing is added.
        after: RMSNorm of the output before it is added.
        norm: RMSNorm of the new stream.

    Returns:
        The new stream, and the normed one (without ``norm`` the same), ``[b, h]`` both.
    """
    count, width = hidden.shape
    stream = hidden if parts is None else torch.empty_like(hidden)
    normed = stream if norm is None else torch.empty_like(hidden)
    block = triton.next_power_of_2(width)
    _add_and_norm[(count,)](
        *(hidden, parts, after.gain if after else None, norm.gain if norm else None, stream, normed),
        *(count, width, after.eps if after else 0.0, norm.eps if norm else 0.0),
        parts_count=0 if parts is None else len(parts),
        after=after is not None,
        norm=norm is not None,
        block=block,
        early=starts_early(hidden.device),
        num_warps=max(1, min(16, block // 256)),
        launch_pdl=starts_early(hidden.device),
    )
    return stream, normed


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator, unused-ignore]
def _add_and_norm(  # type: ignore[no-untyped-def] # noqa: ANN
    hidden,
    parts,
    after_gain,
    gain,
    stream,
    normed,
    count,
    width,
    after_eps,
    eps,
    parts_count: tl.constexpr,
    after: tl.constexpr,
    norm: tl.constexpr,
    block: tl.constexpr,
    early: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, block)
    inside = channel < width
    if early and parts_count == 0:
        wait_for_earlier()
    # What the parts are added to was there before the kernel that made them began.
    value = tl.load(hidden + row * width + channel, mask=inside, other=0.0).to(tl.float32)
    if after_gain is not None:
        after_factor = tl.load(after_gain + channel, mask=inside, other=0.0).to(tl.float32)
    if gain is not None:
        factor = tl.load(gain + channel, mask=inside, other=0.0).to(tl.float32)
    if early and parts_count > 0:
        wait_for_earlier()
    if parts_count > 0:
        added = tl.zeros((block,), tl.float32)
        for part in tl.static_range(parts_count):
            source = parts + (part * count + row) * width + channel
            added += tl.load(source, mask=inside, other=0.0).to(tl.float32)
        if after:
            added *= tl.rsqrt(tl.sum(added * added, axis=0) / width + after_eps)
            if after_gain is not None:
                added *= after_factor
        rounded = (value + added).to(stream.dtype.element_ty)
        tl.store(stream + row * width + channel, rounded, mask=inside)
        value = rounded.to(tl.float32)  # The norm is of the stream that the next sub-layer adds to.
    if norm:
        value *= tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
        if gain is not None:
            value *= factor
        tl.store(normed + row * width + channel, value.to(normed.dtype.element_ty), mask=inside)
