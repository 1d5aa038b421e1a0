"""Products on CPUs, whatever their rows, strides and threads."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from recipes.model.products import (
    FEW_ROWS,
    add_weight_gradient,
    input_gradient,
    number_of_rows,
    product,
    weight_gradient,
)

SHAPES = [(0, 16, 8), (1, 16, 8), (16, 16, 8), (17, 16, 8), (3, 1, 5), (33, 5, 1), (257, 128, 384)]
"""rows, columns in, columns out"""


def matrices(rows: int, columns: int, out: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w, g = (
        torch.randn(*shape, generator=generator) for shape in ((rows, columns), (out, columns), (rows, out))
    )
    return x, w, g


def assert_as_in_float64(found: Tensor, expected: Tensor, terms: int) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * max(1, terms))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, w, g = (matrix.to(dtype) for matrix in matrices(*shape))
    rows, columns, out = shape
    bias, total = torch.randn(out, dtype=dtype), torch.randn(out, columns)
    expected = total.double() + g.double().T @ x.double()
    add_weight_gradient(total, g, x)
    found = product(x, w), product(x, w, bias), input_gradient(g, w)
    exact = x.double() @ w.double().T, x.double() @ w.double().T + bias.double(), g.double() @ w.double()
    if dtype == torch.float32:
        assert_as_in_float64(total, expected, rows)
        assert_as_in_float64(weight_gradient(g, x), g.double().T @ x.double(), rows)
        for ours, theirs, terms in zip(found, exact, (columns, columns, out), strict=True):
            assert_as_in_float64(ours, theirs, terms)
    else:
        for ours, theirs in zip((total, *found), (expected, *exact), strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=2e-2, atol=0.1 * max(1.0, rows**0.5 / 4))


def test_any_strides_and_dimensions() -> None:
    x, w, g = matrices(24, 16, 8)
    strided = x.view(4, 6, 16).transpose(0, 1)  # [s, b, h] of a [b, s, h].
    torch.testing.assert_close(product(strided, w), strided @ w.T)
    transposed = w.T.contiguous().T
    torch.testing.assert_close(product(x, transposed), x @ w.T)
    torch.testing.assert_close(input_gradient(g.T.contiguous().T, transposed), g @ w)
    torch.testing.assert_close(product(x[::2, ::2], w[:, ::2]), x[::2, ::2] @ w[:, ::2].T)


def test_the_same_bits_again() -> None:
    """As exact resumes need; memory lies elsewhere the second time."""
    x, w, g = matrices(300, 72, 40)
    first = product(x, w), input_gradient(g, w)
    copies = [torch.empty(m.numel() + 3)[3:].view_as(m).copy_(m) for m in (x, w, g)]
    second = product(*copies[:2]), input_gradient(copies[2], copies[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_few_numbers_of_rows_have_kernels() -> None:
    """oneDNN keeps every kernel that it has compiled, and memory grew by gigabytes."""
    numbers = range(1, 16_385)
    for n in numbers:
        assert n <= number_of_rows(n) <= max(FEW_ROWS * -(-n // FEW_ROWS), n * 9 / 8)
        assert number_of_rows(number_of_rows(n)) == number_of_rows(n)
    assert len({number_of_rows(n) for n in numbers}) < FEW_ROWS + 90
    assert all(number_of_rows(2**k) == 2**k for k in range(15))


def test_memory_stays_where_lengths_grow() -> None:
    """A kernel for each length took 2 GB."""
    code = (
        "import psutil, torch\n"
        "from recipes.model.products import product\n"
        "weight = torch.randn(1024, 256)\n"
        "held = lambda: psutil.Process().memory_info().rss\n"
        "product(torch.randn(1000, 256), weight)\n"
        "before = held()\n"
        "for n in range(1, 1000):\n"
        "    product(torch.randn(n, 256), weight)\n"
        "print((held() - before) >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150  # MiB
