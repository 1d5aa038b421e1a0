"""Products of rows and a whole weight, and the two of their backward pass.

On CPUs by oneDNN. torch leaves fp32 to MKL, which takes 1.3 to 2.3 times as long on AMD's processors, for few
rows and for many (docs/decisions.md).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[..., in]`` times ``weight`` ``[out, in]`` transposed, ``[..., out]``. It has no gradient."""
    return _onednn(rows, weight, bias) if _is_for_onednn(rows) else linear(rows, weight, bias)


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Of the rows: ``[..., out]`` times ``weight`` ``[out, in]``, ``[..., in]``."""
    return _onednn(gradient, weight.t()) if _is_for_onednn(gradient) else gradient.matmul(weight)


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """``gradient^T rows``, of ``[n, out]`` and ``[n, in]``: ``[out, in]``."""
    # An expert may have had no rows, which oneDNN refuses.
    by_onednn = _is_for_onednn(rows) and len(rows) > 0
    return _onednn(gradient.t(), rows.t()) if by_onednn else gradient.t().matmul(rows)


def add_weight_gradient(main_grad: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """``main_grad += gradient^T rows``, of ``[out, in]``, ``[n, out]`` and ``[n, in]``.

    In one pass where the product can add in fp32: it can if all are fp32, and on GPUs with a recent torch.
    """
    if main_grad.dtype == rows.dtype:
        if _is_for_onednn(rows):
            main_grad.add_(weight_gradient(gradient, rows))
        else:
            main_grad.addmm_(gradient.t(), rows)
    elif can_add_in_fp32(main_grad.device, rows.dtype):
        torch.addmm(main_grad, gradient.t(), rows, out_dtype=main_grad.dtype, out=main_grad)
    else:
        main_grad.add_(weight_gradient(gradient, rows))


torch.library.custom_op(
    "param_recipes::add_weight_gradient", add_weight_gradient, mutates_args=("main_grad",)
).register_fake(lambda main_grad, gradient, rows: None)


def _is_for_onednn(rows: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As linear(); any strides will do."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return output


@cache
def can_add_in_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's ``addmm`` takes half-precision matrices and an fp32 sum here; torch 2.8's does not."""
    if device.type != "cuda":
        return False
    total = torch.ones(16, 16, dtype=torch.float32, device=device)
    matrix = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(total, matrix, matrix, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17.0).all())
