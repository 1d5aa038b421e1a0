"""A mixture of experts for few tokens, as Triton kernels that look the chosen experts' weights up themselves.

Every expert has tensors of its own, so their addresses lie in a table on the device: the host need not know
which are chosen. Imported on GPUs alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.inference.decode.weights import MLP, Experts, Linear


class ExpertTables:
    """Addresses of every routed expert's tensors, ``[experts]`` each. The tensors must outlive them."""

    def __init__(self, experts: Experts) -> None:
        self.device = experts.router.device
        self.first, self.first_bias = self._of([mlp.first for mlp in experts.routed])
        self.second, self.second_bias = self._of([mlp.second for mlp in experts.routed])
        self.width = experts.routed[0].second.weight.shape[1]

    def _of(self, linears: list[Linear]) -> tuple[Tensor, Tensor | None]:
        weights = self._addresses([linear.weight for linear in linears])
        biases = [linear.bias for linear in linears if linear.bias is not None]
        return weights, self._addresses(biases) if biases else None

    def _addresses(self, tensors: list[Tensor]) -> Tensor:
        return torch.tensor([tensor.data_ptr() for tensor in tensors], device=self.device)


def fused_mixture(
    hidden: Tensor, shares: Tensor, chosen: Tensor, tables: ExpertTables, mlp: MLP, gate: int
) -> Tensor:
    """The chosen experts' outputs of ``hidden`` ``[b, h]``, added by their shares, in fp32 ``[b, h]``.

    Args:
        shares, chosen: ``[b, k]``, in fp32 and int64.
        mlp: one of the experts, for what they have in common.
        gate: the gated activation as in product_kernel.py; PLAIN: the inner values are activated by torch.
    """
    count, size = hidden.shape
    top_k, width = chosen.shape[1], tables.width
    inner = torch.empty(count * top_k, width, dtype=hidden.dtype, device=hidden.device)
    out = torch.empty(count, size, dtype=torch.float32, device=hidden.device)
    _inner[(count * top_k, triton.cdiv(width, 8))](
        *(hidden, chosen, tables.first, tables.first_bias, inner, size, width),
        top_k=top_k,
        gate=gate,
        block_outer=8,
        block_inner=min(512, triton.next_power_of_2(size)),
        num_warps=4,
    )
    if gate == 0:
        inner = mlp.activated(inner)
    _outer[(count, triton.cdiv(size, 8))](
        *(inner, shares, chosen, tables.second, tables.second_bias, out, size, width),
        top_k=top_k,
        block_outer=8,
        block_inner=min(512, triton.next_power_of_2(width)),
        num_warps=4,
    )
    return out


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _inner(  # type: ignore[no-untyped-def] # noqa: ANN
    hidden,
    chosen,
    addresses,
    biases,
    inner,
    size,
    width,
    top_k: tl.constexpr,
    gate: tl.constexpr,
    block_outer: tl.constexpr,
    block_inner: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    expert = tl.load(chosen + pair)
    dtype: tl.constexpr = inner.dtype.element_ty
    weight = tl.multiple_of(tl.load(addresses + expert).to(tl.pointer_type(dtype)), 16)
    output = tl.program_id(1) * block_outer + tl.arange(0, block_outer)
    is_output = output < width
    total = tl.zeros((block_outer, block_inner), tl.float32)
    up_total = tl.zeros((block_outer, block_inner), tl.float32)
    for start in range(0, size, block_inner):
        place = start + tl.arange(0, block_inner)
        within = place < size
        x = tl.load(hidden + (pair // top_k) * size + place, mask=within, other=0.0).to(tl.float32)[None, :]
        where = output[:, None] * size + place[None, :]
        mask = is_output[:, None] & within[None, :]
        total += tl.load(weight + where, mask=mask, other=0.0).to(tl.float32) * x
        if gate != 0:
            up_total += tl.load(weight + width * size + where, mask=mask, other=0.0).to(tl.float32) * x
    result = tl.sum(total, axis=1)
    if biases is not None:
        bias = tl.load(biases + expert).to(tl.pointer_type(dtype))
        result += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)
    up = tl.sum(up_total, axis=1)
    if gate == 1:
        result = result * tl.sigmoid(result) * up
    if gate == 2:
        cubic = 0.7978845608028654 * (result + 0.044715 * result * result * result)
        result = result * tl.sigmoid(2.0 * cubic) * up
    tl.store(inner + pair * width + output, result.to(dtype), mask=is_output)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _outer(  # type: ignore[no-untyped-def] # noqa: ANN
    inner,
    shares,
    chosen,
    addresses,
    biases,
    out,
    size,
    width,
    top_k: tl.constexpr,
    block_outer: tl.constexpr,
    block_inner: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = inner.dtype.element_ty
    output = tl.program_id(1) * block_outer + tl.arange(0, block_outer)
    is_output = output < size
    result = tl.zeros((block_outer,), tl.float32)
    for number in range(top_k):
        pair = row * top_k + number
        expert = tl.load(chosen + pair)
        weight = tl.multiple_of(tl.load(addresses + expert).to(tl.pointer_type(dtype)), 16)
        total = tl.zeros((block_outer, block_inner), tl.float32)
        for start in range(0, width, block_inner):
            place = start + tl.arange(0, block_inner)
            within = place < width
            x = tl.load(inner + pair * width + place, mask=within, other=0.0).to(tl.float32)[None, :]
            where = output[:, None] * width + place[None, :]
            mask = is_output[:, None] & within[None, :]
            total += tl.load(weight + where, mask=mask, other=0.0).to(tl.float32) * x
        expert_out = tl.sum(total, axis=1)
        if biases is not None:
            bias = tl.load(biases + expert).to(tl.pointer_type(dtype))
            expert_out += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)
        result += tl.load(shares + pair) * expert_out
    tl.store(out + row * size + output, result, mask=is_output)
