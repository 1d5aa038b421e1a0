"""Products of rows and a whole weight, and the two of their backward pass.

On CPUs by oneDNN. torch leaves fp32 to MKL, which takes 1.3 to 2.3 times as long on AMD's processors, for few
rows and for many (docs/decisions.md).

oneDNN compiles a kernel for every number of rows: it takes up to 12 ms, and half a megabyte that stays
between what is freed, so that memory grew by gigabytes where prompts, questions or experts' shares have ever
other lengths. Therefore rows of zeros are added up to one of a few numbers.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

FEW_ROWS = 16
"""So many have a kernel each: a decoding step's."""


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``[..., in]`` times ``weight`` ``[out, in]`` transposed, ``[..., out]``. It has no gradient."""
    return _onednn(rows, weight, bias) if _is_for_onednn(rows) else linear(rows, weight, bias)


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Of the rows: ``[..., out]`` times ``weight`` ``[out, in]``, ``[..., in]``."""
    return _onednn(gradient, weight.t()) if _is_for_onednn(gradient) else gradient.matmul(weight)


def weight_gradient(gradient: Tensor, rows: Tensor) -> Tensor:
    """``gradient^T rows``, of ``[n, out]`` and ``[n, in]``: ``[out, in]``."""
    if not (_is_for_onednn(rows) and len(rows)):  # An expert may have had none, which oneDNN refuses.
        return gradient.t().matmul(rows)
    gradient, rows = _padded(gradient), _padded(rows)
    return _linear_pointwise(gradient.t(), rows.t(), None)


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
    columns = rows.shape[-1]
    n = rows.numel() // columns
    if number_of_rows(n) == n:
        return _linear_pointwise(rows, weight, bias)
    output = _linear_pointwise(_padded(rows.reshape(n, columns)), weight, bias)
    # Shortened, not a view of it, which megatron-core's experts could not change in place.
    return output.resize_(*rows.shape[:-1], weight.shape[0])


def _padded(rows: Tensor) -> Tensor:
    """``[n, columns]`` -> ``[number_of_rows(n), columns]``."""
    more = number_of_rows(len(rows)) - len(rows)
    return pad(rows, (0, 0, 0, more)) if more else rows


def number_of_rows(n: int) -> int:
    """The next number that has a kernel: eight for each power of two, so that at most an eighth is added."""
    if n <= FEW_ROWS:
        return n
    step = max(FEW_ROWS, 1 << (n - 1).bit_length() - 4)
    return -(-n // step) * step


def _linear_pointwise(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
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
