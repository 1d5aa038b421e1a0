"""A decoding step's kernels on a GPU, against float64. Without a GPU: tests/kernels."""

from __future__ import annotations

import pytest
import torch

from tests.support.cuda import NEEDS_CUDA
from tests.support.decode_kernel_cases import DTYPES, DecodeKernels, product_error

pytestmark = NEEDS_CUDA


class TestDecodeKernels(DecodeKernels):
    device = "cuda"
    bf16_tolerance = 0.05

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("gate", [0, 1, 2], ids=["plain", "silu", "tanh_gelu"])
    @pytest.mark.parametrize("count", [1, 16, 64])
    def test_large_product(self, count: int, gate: int, dtype: torch.dtype) -> None:
        """Too slow for the interpreter."""
        assert product_error(count, 2048, 4096, gate, dtype, self.device) < self.tolerance(dtype)
