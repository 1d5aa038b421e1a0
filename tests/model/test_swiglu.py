"""SwiGLU and its gradient, against float64. On a GPU: tests/cuda/test_kernels.py."""

from __future__ import annotations

import pytest
import torch

from recipes.model.swiglu import swiglu
from tests.support.linear_cases import swiglu_error


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1030)])
def test_agrees_with_float64(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    assert swiglu_error(shape, dtype, "cpu") < tolerance


def test_is_one_graph() -> None:
    """Compiled layers hold it; a break there would compile every layer in two."""
    compiled = torch.compile(swiglu, backend="aot_eager", fullgraph=True)
    plain, other = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    )
    compiled(plain).sum().backward()
    swiglu(other).sum().backward()
    assert plain.grad is not None and other.grad is not None
    torch.testing.assert_close(plain.grad, other.grad)
