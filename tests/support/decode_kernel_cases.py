"""The kernels between a step's attentions against float64, for a GPU or Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, rms_norm, silu

from recipes.inference.decode.norm import Norm
from tests.support import attention_kernel_cases, expert_kernel_cases
from tests.support.attention_kernel_cases import attention_error
from tests.support.expert_kernel_cases import mixture_error

SHAPES = [(96, 256), (130, 2048), (130, 72), (70, 1100)]
"""Outputs and inputs: less than a tile; four parts; neither whole tiles nor whole steps."""
DTYPES = [torch.float32, torch.bfloat16]


class DecodeKernels:
    """A step's kernels against float64; a subclass says where they run."""

    device: ClassVar[str]
    bf16_tolerance: ClassVar[float]

    def tolerance(self, dtype: torch.dtype) -> float:
        return self.bf16_tolerance if dtype == torch.bfloat16 else 1e-4

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("gate", [0, 1, 2], ids=["plain", "silu", "tanh_gelu"])
    @pytest.mark.parametrize(("outer", "inner"), SHAPES)
    @pytest.mark.parametrize("count", [1, 3, 16, 64])
    def test_product(self, count: int, outer: int, inner: int, gate: int, dtype: torch.dtype) -> None:
        assert product_error(count, outer, inner, gate, dtype, self.device) < self.tolerance(dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("gain", [False, True])
    @pytest.mark.parametrize(("parts", "after"), [(0, False), (1, True), (4, False), (4, True)])
    @pytest.mark.parametrize("width", [72, 2048])
    def test_add_and_norm(self, width: int, parts: int, after: bool, gain: bool, dtype: torch.dtype) -> None:
        assert add_and_norm_error(width, parts, after, gain, dtype, self.device) < self.tolerance(dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", attention_kernel_cases.CASES)
    def test_attention(self, name: str, dtype: torch.dtype) -> None:
        assert attention_error(attention_kernel_cases.CASES[name], dtype, self.device) < self.tolerance(dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", expert_kernel_cases.CASES)
    def test_experts(self, name: str, dtype: torch.dtype) -> None:
        assert mixture_error(expert_kernel_cases.CASES[name], dtype, self.device) < self.tolerance(dtype)


def product_error(count: int, outer: int, inner: int, gate: int, dtype: torch.dtype, device: str) -> float:
    """The largest difference of any element, where results are about 1."""
    from recipes.inference.decode.product_kernel import PLAIN, SILU, product_parts, whole_product

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, inner, generator=generator).to(device, dtype)
    weight = torch.randn(outer if gate == PLAIN else 2 * outer, inner, generator=generator)
    weight = (weight / inner**0.5).to(device, dtype)
    exact = rows.double() @ weight.double().t()
    if gate == PLAIN:
        assert_rows_stand_alone(rows, weight)
        parted = product_parts(rows, weight).double().sum(0)
        return max(_error(parted, exact), _error(whole_product(rows, weight), exact))
    opened, up = exact.chunk(2, dim=-1)
    activated = silu(opened) if gate == SILU else gelu(opened, approximate="tanh")
    return _error(whole_product(rows, weight, gate), activated * up)


def assert_rows_stand_alone(rows: Tensor, weight: Tensor) -> None:
    """A row is the same bit for bit whatever stands beside it."""
    from recipes.inference.decode.product_kernel import product_parts

    assert torch.equal(product_parts(rows, weight)[:, -1:], product_parts(rows[-1:], weight))


def add_and_norm_error(
    width: int, parts_count: int, after: bool, gain: bool, dtype: torch.dtype, device: str
) -> float:
    """The largest difference in the new stream and in the normed one."""
    from recipes.inference.decode.norm_kernel import add_and_norm

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, width, generator=generator).to(device, dtype)
    gains = (1 + 0.1 * torch.randn(2, width, generator=generator)).to(device, dtype)
    parts = torch.randn(parts_count, 3, width, generator=generator).to(device) if parts_count else None
    norm = Norm(width, 1e-5, gains[0] if gain else None)
    after_norm = Norm(width, 1e-6, gains[1] if gain else None) if after else None
    stream, normed = add_and_norm(hidden, parts, after_norm, norm)
    exact = hidden.double()
    if parts is not None:
        added = parts.double().sum(0)
        exact = exact + (added if after_norm is None else _exact(after_norm, added))
    return max(_error(stream, exact), _error(normed, _exact(norm, exact)))


def _exact(norm: Norm, values: Tensor) -> Tensor:
    gain = None if norm.gain is None else norm.gain.double()
    return rms_norm(values, (norm.width,), gain, norm.eps)


def _error(found: Tensor, exact: Tensor) -> float:
    assert found.shape == exact.shape
    return float((found.double() - exact).abs().max())
