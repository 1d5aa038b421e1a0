"""The kernels of training against float64, for a GPU or Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

HEADS = [(1, 1, 32), (2, 2, 32), (3, 4, 64), (2, 1, 128)]
"""Groups, queries of each, width: heads that are a power of two, and others, of which blocks have a rest."""
SHAPES = [(3, 5, 7), (2, 1030), (1, 1024)]


class TrainingKernels:
    """Training's kernels against float64; a subclass says where they run."""

    device: ClassVar[str]

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
    @pytest.mark.parametrize(("groups", "per_group", "width"), HEADS)
    def test_rotation(
        self, groups: int, per_group: int, width: int, dtype: torch.dtype, tolerance: float
    ) -> None:
        assert rotation_error(groups, per_group, width, dtype, self.device) < tolerance

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
    @pytest.mark.parametrize("by_gelu", [False, True], ids=["silu", "tanh_gelu"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_gradient_of_gates(
        self, shape: tuple[int, ...], by_gelu: bool, dtype: torch.dtype, tolerance: float
    ) -> None:
        assert gated_gradient_error(shape, by_gelu, dtype, self.device) < tolerance


def rotation_error(groups: int, per_group: int, width: int, dtype: torch.dtype, device: str) -> float:
    """The largest difference in queries, keys, values and the gradient of what they are made from."""
    from recipes.model.qkv_kernel import gradient_on_gpu, rotated_on_gpu

    length, batch, heads = 5, 3, per_group + 2
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    mixed = normal(length, batch, groups, heads * width)
    angles = (torch.rand(length, width // 2, generator=generator) * 6).repeat(1, 2)
    tables = torch.stack((angles.cos(), angles.sin())).to(device)
    exact = mixed.double().requires_grad_()
    expected = _rotated(exact, tables.double(), width)
    found = rotated_on_gpu(mixed, tables)
    # As attention gives them: heads before positions; and one with channels that are not beside each other.
    gradients = (
        normal(batch, groups * per_group, length, width).permute(2, 0, 1, 3),
        normal(length, batch, groups, width),
        normal(length, batch, width, groups).transpose(2, 3),
    )
    torch.autograd.backward(expected, [gradient.double() for gradient in gradients])
    back = gradient_on_gpu(*gradients, tables)
    assert exact.grad is not None and {part.dtype for part in (*found, back)} == {dtype}
    pairs = [*zip(found, expected, strict=True), (back, exact.grad)]
    return max(float((a.double() - b).abs().max()) for a, b in pairs)


def _rotated(mixed: Tensor, tables: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    heads = mixed.unflatten(-1, (-1, width))
    cos, sin = tables[:, :, None, None, None]
    low, high = heads[..., : width // 2], heads[..., width // 2 :]
    turned = heads * cos + torch.cat((-high, low), dim=-1) * sin
    return turned[..., :-2, :].flatten(2, 3), turned[..., -2, :], heads[..., -1, :]


def gated_gradient_error(shape: tuple[int, ...], by_gelu: bool, dtype: torch.dtype, device: str) -> float:
    """The largest difference in the gradients of gates and ups."""
    from recipes.model.swiglu import GELU_CUBE, GELU_SCALE
    from recipes.model.swiglu_kernel import gated_gradient_on_gpu

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator).to(device, dtype)
    gradient = torch.randn(shape, generator=generator).to(device, dtype)
    exact = inputs.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    activated = gelu(gate, approximate="tanh") if by_gelu else gate * gate.sigmoid()
    (activated * up).backward(gradient.double())
    found = gated_gradient_on_gpu(inputs, gradient, (GELU_SCALE, GELU_CUBE) if by_gelu else None)
    assert exact.grad is not None and found.dtype == dtype
    return float((found.double() - exact.grad).abs().max())
