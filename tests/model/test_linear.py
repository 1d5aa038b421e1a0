"""Linear layers that add to the main gradients themselves, and what torch.compile makes of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from megatron.core.models.gpt import GPTModel

from tests.support.engine import TINY, initialized
from tests.support.huggingface_models import CASES
from tests.support.linear_cases import (
    MODELS,
    assert_same_main_gradients,
    losses,
    main_gradients,
    product_error,
    tokens,
)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("name", MODELS)
def test_main_gradients_are_those_of_the_hooks(name: str) -> None:
    assert_same_main_gradients(name, torch.float32, 2e-6)


def test_compiled_layers_add_them_too() -> None:
    expected, found = main_gradients(TINY, False), main_gradients(TINY, True, backend="aot_eager")
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=2e-6 * gradient.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_product(dtype: torch.dtype, tolerance: float) -> None:
    assert product_error(50, 7, 9, dtype, "cpu") < tolerance


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled_graphs(gpt: GPTModel) -> int:
    for layer in gpt.decoder.layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    for _ in range(2):
        losses(gpt, tokens()).backward()
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("name", "graphs"),
    [
        ("llama", 1),
        ("gemma3", 2),  # with and without a window
        ("nano_hindi", 4),  # the same, with and without value embeddings; the first layer, which sees only x0
    ],
)
def test_layers_are_compiled_once_for_all(name: str, graphs: int) -> None:
    """A layer is one graph, and all layers of a kind share it: torch gives up after eight of them."""
    gpt = initialized(replace(CASES[name], num_layers=12))
    assert compiled_graphs(gpt) == graphs
