"""Linear layers that add to the main gradients themselves, and what torch.compile makes of layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import Tensor

from recipes.families.model_config import ModelConfig
from recipes.model.linear import add_product, add_to_main_grads
from recipes.parallel.setup import seed_random_states
from tests.support.engine import TINY, initialized
from tests.support.huggingface_models import CASES

pytestmark = pytest.mark.usefixtures("engine", "no_scale_of_losses")


@pytest.fixture
def no_scale_of_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """megatron-core keeps the first one's shape for the process, and there is none without its schedules."""
    monkeypatch.setattr(MoEAuxLossAutoScaler, "main_loss_backward_scale", None)


def tokens() -> Tensor:
    return torch.randint(100, (2, 16), generator=torch.Generator().manual_seed(3))


def losses(gpt: torch.nn.Module, rows: Tensor) -> Tensor:
    positions = torch.arange(rows.shape[1]).expand_as(rows)
    found: Tensor = gpt(rows, positions, None, labels=rows.roll(-1, 1)).sum()
    return found


def main_gradients(model: ModelConfig, by_product: bool, backend: str | None = None) -> dict[str, Tensor]:
    """After two micro-batches whose forward passes both come first, as in a pipeline."""
    gpt = initialized(model)
    config = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    ddp = DistributedDataParallel(gpt.config, config, gpt)
    weights = add_to_main_grads(gpt) if by_product else []
    assert bool(weights) is by_product
    if backend is not None:
        for layer in gpt.decoder.layers:
            layer.compile(backend=backend)
    ddp.zero_grad_buffer()
    for weight in weights:
        weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
    seed_random_states(1)  # For dropout and routers' noise.
    first, second = losses(ddp, tokens()), losses(ddp, tokens().flip(1))
    first.backward()
    second.backward()
    return {name: parameter.main_grad.clone() for name, parameter in gpt.named_parameters()}


MODELS = {
    "llama": TINY,
    "tied": replace(TINY, share_embeddings_and_output_weights=True),
    "biases": replace(TINY, add_bias_linear=True),
    **{name: CASES[name] for name in ("gemma3", "nano_hindi", "param_moe", "glm4_moe")},
}


@pytest.mark.parametrize("name", MODELS)
def test_main_gradients_are_those_of_the_hooks(name: str) -> None:
    expected, found = (main_gradients(MODELS[name], by_product) for by_product in (False, True))
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=2e-6 * scale, msg=f"{name} {key}")
    assert sum(gradient.abs().max().item() > 0 for gradient in found.values()) > len(found) / 2


def test_compiled_layers_add_them_too() -> None:
    expected, found = main_gradients(TINY, False), main_gradients(TINY, True, backend="aot_eager")
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=2e-6 * gradient.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient, inputs = (torch.randn(50, width, generator=generator).to(dtype) for width in (7, 9))
    total = torch.randn(7, 9, generator=generator)
    expected = total.double() + gradient.double().T @ inputs.double()
    add_product(total, gradient, inputs)
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.2)


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
