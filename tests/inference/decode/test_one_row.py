"""Products of one row, by which a single prompt is continued."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import ThreadpoolController

from recipes.inference.decode import one_row
from recipes.inference.decode.one_row import step_product

OPENBLAS = len(ThreadpoolController().select(internal_api="openblas")) > 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.usefixtures("one_thread")
def test_products_are_right(rows: int, has_bias: bool) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(130, 70), torch.randn(130) if has_bias else None
    some = torch.randn(rows, 100)[:, :70]  # As a gate reads a part of the channels.
    expected = torch.nn.functional.linear(
        some.double(), weight.double(), None if bias is None else bias.double()
    )
    product = step_product(some, weight, bias)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not OPENBLAS, reason="numpy has another library here")
@pytest.mark.usefixtures("one_thread")
def test_one_row_and_thread_take_openblas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[int] = []

    def other(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        others.append(len(rows))
        return torch.nn.functional.linear(rows, weight, bias)

    monkeypatch.setattr(one_row, "product", other)
    weight = torch.randn(8, 4)
    for rows in (1, 3):
        step_product(torch.randn(rows, 4), weight)
    step_product(torch.randn(1, 4).bfloat16(), weight.bfloat16())
    assert others == [3, 1]
    assert {
        pool.num_threads for pool in ThreadpoolController().select(internal_api="openblas").lib_controllers
    } == {1}
    torch.set_num_threads(2)  # Two pools of threads would wait for each other.
    step_product(torch.randn(1, 4), weight)
    assert others == [3, 1, 1]
