"""Main gradients of small models, with and without products that add to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from torch import Tensor
from torch.nn.functional import gelu

from recipes.families.model_config import ModelConfig
from recipes.model.embedding import add_rows
from recipes.model.main_grad import add_to_main_grads
from recipes.model.products import add_weight_gradient
from recipes.model.swiglu import geglu
from recipes.parallel.setup import seed_random_states
from tests.support.engine import TINY, initialized
from tests.support.huggingface_models import CASES

MODELS = {
    "llama": TINY,
    "tied": replace(TINY, share_embeddings_and_output_weights=True),
    "biases": replace(TINY, add_bias_linear=True),
    **{name: CASES[name] for name in ("gemma3", "nano_hindi", "param_moe", "glm4_moe")},
}


def tokens() -> Tensor:
    rows = torch.randint(100, (2, 16), generator=torch.Generator().manual_seed(3))
    return rows.to("cuda")


def losses(gpt: torch.nn.Module, rows: Tensor) -> Tensor:
    positions = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    found: Tensor = gpt(rows, positions, None, labels=rows.roll(-1, 1)).sum()
    return found


def trained(model: ModelConfig, dtype: torch.dtype) -> GPTModel:
    """With weights as after some training.

    With nano_hindi's initial ones sub-layers add nothing, so that 16 of 38 gradients are 0, and the final
    norm takes out whatever a layer's scalars do: of terms that add up to 1.3 in size only its epsilon leaves
    3e-5, of which rounding is 3e-5 to 2e-4.
    """
    gpt = initialized(model, dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in gpt.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=0.05)
    return gpt


def main_gradients(
    model: ModelConfig,
    by_product: bool,
    backend: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """After two micro-batches whose forward passes both come first, as in a pipeline."""
    gpt = trained(model, dtype)
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


def assert_same_main_gradients(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """Products that add and hooks that add agree within ``tolerance`` of a gradient's largest number."""
    expected, found = (main_gradients(MODELS[name], by, dtype=dtype) for by in (False, True))
    assert expected.keys() == found.keys()
    for key, gradient in expected.items():
        assert found[key].dtype == torch.float32
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=tolerance * scale, msg=f"{name} {key}")
    assert all(gradient.abs().max().item() > 0 for gradient in found.values())


def product_error(n: int, rows: int, columns: int, dtype: torch.dtype, device: str) -> float:
    """How far a sum with a product of ``n`` terms is from the one in float64, in units of sqrt(n)."""
    generator = torch.Generator().manual_seed(0)
    gradient, inputs = (torch.randn(n, width, generator=generator) for width in (rows, columns))
    gradient, inputs = gradient.to(device, dtype), inputs.to(device, dtype)
    total = torch.randn(rows, columns, generator=generator).to(device)
    expected = total.double() + gradient.double().T @ inputs.double()
    add_weight_gradient(total, gradient, inputs)
    assert total.dtype == torch.float32
    return (total.double() - expected).abs().max().item() / n**0.5


def rows_error(dtype: torch.dtype, device: str) -> float:
    """How far sums of rows are from those in float64; one row gets a hundred of them."""
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(30, (400,), generator=generator)
    token_ids[:100] = 7
    gradient = torch.randn(400, 24, generator=generator).to(dtype)
    total = torch.randn(30, 24, generator=generator)
    expected = total.double()
    for token, row in zip(token_ids.tolist(), gradient.double(), strict=True):
        expected[token] += row
    found = total.to(device)
    add_rows(found, token_ids.to(device), gradient.to(device))
    return (found.cpu().double() - expected).abs().max().item()


def gated_error(
    gated: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> float:
    """The larger of the relative errors of SwiGLU or GEGLU and its gradient, against autograd in float64."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(*shape[:-1], 2 * shape[-1], generator=generator).mul(3).to(dtype)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    exact = inputs.double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    activated = gelu(gate, approximate="tanh") if gated is geglu else gate / (1 + torch.exp(-gate))
    expected = activated * up
    expected.backward(gradient.double())
    found = inputs.to(device).requires_grad_()
    output = gated(found)
    output.backward(gradient.to(device))
    assert exact.grad is not None and found.grad is not None and found.grad.dtype == dtype
    pairs = (output, expected), (found.grad, exact.grad)
    return max(((a.cpu().double() - b).norm() / b.norm()).item() for a, b in pairs)
