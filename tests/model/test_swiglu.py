"""SwiGLU, GEGLU and their gradients, against float64. On a GPU: tests/cuda/test_kernels.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recipes.model.swiglu import geglu, swiglu
from tests.support.linear_cases import gated_error

Gated = Callable[[Tensor], Tensor]
GATED = pytest.mark.parametrize("gated", [swiglu, geglu])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1030)])
@GATED
def test_agrees_with_float64(
    gated: Gated, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    assert gated_error(gated, shape, dtype, "cpu") < tolerance


@GATED
def test_is_one_graph(gated: Gated) -> None:
    """Compiled layers hold it; a break there would compile every layer in two."""
    compiled = torch.compile(gated, backend="aot_eager", fullgraph=True)
    plain, other = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    )
    compiled(plain).sum().backward()
    gated(other).sum().backward()
    assert plain.grad is not None and other.grad is not None
    torch.testing.assert_close(plain.grad, other.grad)
