"""A decoding step's kernels on a GPU, against float64. Without a GPU: tests/kernels."""

from __future__ import annotations

import pytest
import torch

from tests.support import attention_kernel_cases, expert_kernel_cases
from tests.support.attention_kernel_cases import attention_error
from tests.support.cuda import NEEDS_CUDA
from tests.support.decode_kernel_cases import SHAPES, add_and_norm_error, product_error
from tests.support.expert_kernel_cases import mixture_error

pytestmark = NEEDS_CUDA

DTYPES = [(torch.float32, 1e-4), (torch.bfloat16, 0.05)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("gate", [0, 1, 2], ids=["plain", "silu", "tanh_gelu"])
@pytest.mark.parametrize(("outer", "inner"), SHAPES)
@pytest.mark.parametrize("count", [1, 16, 64])
def test_product(count: int, outer: int, inner: int, gate: int, dtype: torch.dtype, tolerance: float) -> None:
    assert product_error(count, outer, inner, gate, dtype, "cuda") < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize(("parts", "after"), [(0, False), (1, True), (4, False), (4, True)])
@pytest.mark.parametrize("width", [72, 2048])
def test_add_and_norm(
    width: int, parts: int, after: bool, gain: bool, dtype: torch.dtype, tolerance: float
) -> None:
    assert add_and_norm_error(width, parts, after, gain, dtype, "cuda") < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("name", attention_kernel_cases.CASES)
def test_attention(name: str, dtype: torch.dtype, tolerance: float) -> None:
    assert attention_error(attention_kernel_cases.CASES[name], dtype, "cuda") < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("name", expert_kernel_cases.CASES)
def test_experts(name: str, dtype: torch.dtype, tolerance: float) -> None:
    assert mixture_error(expert_kernel_cases.CASES[name], dtype, "cuda") < tolerance
