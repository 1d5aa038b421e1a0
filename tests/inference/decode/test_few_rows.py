"""Products of a few rows, by which a few prompts are continued."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recipes.inference.decode import few_rows
from recipes.inference.decode.few_rows import FEW, step_product


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def by_the_library(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each product had that was left to oneDNN."""
    seen: list[int] = []

    def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(len(rows))
        return torch.nn.functional.linear(rows, weight, bias)

    monkeypatch.setattr(few_rows, "product", product)
    return seen


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, FEW, FEW + 1])
@pytest.mark.parametrize("columns", [70, 3072, 4096])
@pytest.mark.usefixtures("threads")
def test_products_are_right(rows: int, columns: int, has_bias: bool) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(130, columns), torch.randn(130) if has_bias else None
    some = torch.randn(rows, columns + 30)[:, :columns]  # As a gate reads a part of the channels.
    expected = torch.nn.functional.linear(
        some.double(), weight.double(), None if bias is None else bias.double()
    )
    product = step_product(some, weight, bias)
    assert product.dtype == torch.float32 and product.is_contiguous()
    torch.testing.assert_close(product.double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("threads")
def test_few_rows_change_nothing_of_each_other(by_the_library: list[int]) -> None:
    torch.manual_seed(1)
    weight, rows = torch.randn(300, 768), torch.randn(FEW, 768)
    together = step_product(rows, weight)
    for row, expected in zip(rows, together, strict=True):
        assert torch.equal(step_product(row[None], weight)[0], expected)
    assert not by_the_library


def test_what_the_library_reads_faster_is_left_to_it(threads: int, by_the_library: list[int]) -> None:
    small, large = torch.randn(8, 16), torch.randn(2048, 256)
    step_product(torch.randn(1, 16), small)
    assert not by_the_library
    step_product(torch.randn(1, 256), large)
    assert by_the_library == ([] if threads <= 2 else [1])
    by_the_library.clear()
    step_product(torch.randn(FEW + 1, 16), small)  # Many rows
    step_product(torch.randn(2, 2048), torch.randn(8, 2048))  # Long rows
    step_product(torch.randn(3, 16).bfloat16(), small.bfloat16())
    assert by_the_library == [FEW + 1, 2, 3]
