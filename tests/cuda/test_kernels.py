"""Compiled and half-precision kernels on a GPU, against float64. On the CPU: tests/model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recipes.model import windows
from recipes.model.products import can_add_in_fp32
from recipes.model.qkv import works_on_gpu
from recipes.model.swiglu import geglu, swiglu
from tests.support.cross_entropy_cases import assert_agrees
from tests.support.cuda import NEEDS_CUDA
from tests.support.dense_attention import assert_attends_as_dense, document_starts
from tests.support.linear_cases import (
    MODELS,
    assert_same_main_gradients,
    gated_error,
    main_gradients,
    product_error,
    rows_error,
)
from tests.support.training_kernel_cases import TrainingKernels

pytestmark = NEEDS_CUDA

# fp32: products inside of compiled kernels may round to TF32. bf16: a gradient is a sum of hundreds.
DTYPES = [(torch.float32, 5e-3), (torch.bfloat16, 0.1)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("queries", "keys"), [(1024, 1024), (512, 1024), (100, 300), (5, 900), (1, 900)])
@pytest.mark.parametrize("window", [None, 256, 17])
def test_attention(queries: int, keys: int, window: int | None, dtype: torch.dtype, tolerance: float) -> None:
    """Windows through FlexAttention, compiled, or FlashAttention-3; whole sequences through SDPA."""
    assert_attends_as_dense(queries, keys, window, dtype, tolerance, "cuda")


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("window", [None, 17])
def test_attention_of_separate_documents(window: int | None, dtype: torch.dtype, tolerance: float) -> None:
    for seed in (1, 2):  # A second batch takes the kernels of the first.
        starts = document_starts(2, 1024, 100, seed).to("cuda")
        assert_attends_as_dense(1024, 1024, window, dtype, tolerance, "cuda", starts)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_flex_attention_where_flash_attention_3_is(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_have_flash_attention_3", lambda device: False)
    assert_attends_as_dense(300, 300, 100, dtype, tolerance, "cuda")


@pytest.mark.parametrize("soft_cap", [None, 15.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [7, 1000, 256_000])
def test_cross_entropy(vocabulary: int, dtype: torch.dtype, soft_cap: float | None) -> None:
    assert_agrees(vocabulary, dtype, soft_cap, "cuda", slack=5)  # Its exponential is an approximation.


@pytest.mark.parametrize(("n", "rows", "columns"), [(50, 7, 9), (64, 8, 16), (4096, 512, 384)])
def test_bf16_products_are_added_in_fp32(n: int, rows: int, columns: int) -> None:
    """No bf16 number in between, if torch can: rounding a product of n terms would cost 2^-9 sqrt(n)."""
    exact = can_add_in_fp32(torch.zeros(1, device="cuda").device, torch.bfloat16)
    assert product_error(n, rows, columns, torch.bfloat16, "cuda") < (1e-4 if exact else 0.03)


def test_queries_and_keys_are_rotated_by_the_kernels() -> None:
    """They were compared with torch's operations before; a model may then rely on them."""
    assert works_on_gpu(torch.device("cuda", torch.cuda.current_device()))


class TestTrainingKernels(TrainingKernels):
    device = "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_added_in_fp32(dtype: torch.dtype) -> None:
    assert rows_error(dtype, "cuda") < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1030), (70_000, 64)])
@pytest.mark.parametrize("gated", [swiglu, geglu])
def test_gated_activations(
    gated: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    assert gated_error(gated, shape, dtype, "cuda") < tolerance


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("name", MODELS)
def test_main_gradients(name: str, dtype: torch.dtype, tolerance: float) -> None:
    assert_same_main_gradients(name, dtype, tolerance)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.02), (torch.bfloat16, 0.25)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "nano_hindi"])
def test_main_gradients_of_compiled_layers(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """By torch's own compiler. In bf16 fused passes round less often: only a wrong graph is found there."""
    torch._dynamo.reset()
    expected = main_gradients(MODELS[name], False, dtype=dtype)
    found = main_gradients(MODELS[name], True, backend="inductor", dtype=dtype)
    matrices = {key: gradient for key, gradient in expected.items() if gradient.dim() > 1}
    for key, gradient in matrices.items():
        difference = (found[key] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert difference < tolerance, f"{key}: {difference}"
