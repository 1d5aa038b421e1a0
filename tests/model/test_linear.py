"""Linear layers that add to the main gradients themselves, and what torch.compile makes of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel

from recipes.model.embedding import Table, VocabParallelEmbedding
from recipes.model.main_grad import add_to_main_grads
from tests.support.engine import TINY, initialized
from tests.support.huggingface_models import CASES
from tests.support.linear_cases import (
    MODELS,
    assert_same_main_gradients,
    losses,
    main_gradients,
    product_error,
    rows_error,
    tokens,
)

pytestmark = pytest.mark.usefixtures("engine")
TOLERANCE = 2e-6
"""Of a gradient's largest number."""


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for key, gradient in expected.items():
        atol = TOLERANCE * gradient.abs().max().item()
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_main_gradients_are_those_of_the_hooks(name: str) -> None:
    assert_same_main_gradients(name, torch.float32, TOLERANCE)


def test_compiled_layers_add_them_too() -> None:
    expected, found = main_gradients(TINY, False), main_gradients(TINY, True, backend="aot_eager")
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["llama", "tied", "nano_hindi"])
@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_tables_add_them_too(name: str, backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the hooks have nothing left to add."""
    expected = main_gradients(MODELS[name], False)
    monkeypatch.setattr(Table, "can_add_to_main_grad", lambda table, weight: True)
    monkeypatch.setattr(VocabParallelEmbedding, "can_add_to_main_grad", lambda table, weight: True)
    found = main_gradients(MODELS[name], True, backend=backend)
    assert_same(found, expected)


def test_all_users_of_a_weight_add_its_gradient_or_none() -> None:
    """On the CPU the word embeddings do not, so a head that shares their weight does not either."""
    tied = initialized(MODELS["tied"])
    config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    DistributedDataParallel(tied.config, config, tied)
    added = {id(weight) for weight in add_to_main_grads(tied)}
    shared = tied.shared_embedding_or_output_weight()
    assert added and (id(shared) in added) is shared.is_cuda is tied.output_layer.adds_to_main_grad


def test_rows() -> None:
    assert max(rows_error(dtype, "cpu") for dtype in (torch.float32, torch.bfloat16)) < 1e-4


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


def test_what_is_recomputed_comes_out_the_same() -> None:
    """Recomputation runs layers without gradients first; evaluation may have another library multiply."""
    wide = replace(CASES["llama"], num_layers=1, hidden_size=768, ffn_hidden_size=256)  # Sums that differ.
    model = initialized(wide)
    layer = model.decoder.layers[0].mlp.linear_fc1
    inputs = torch.randn(300, 1, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = layer(inputs)[0]
        torch.testing.assert_close(layer.eval()(inputs)[0], first, rtol=0, atol=1e-4)
    layer.train()
    assert torch.equal(first, layer(inputs)[0])
