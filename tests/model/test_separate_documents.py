"""Documents that share a sequence are to each family what they are alone: losses and gradients in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recipes.config.hydra_app import compose
from recipes.config.jobs import CONF_DIR
from recipes.config.schema import ParallelConfig
from recipes.families.model_config import ModelConfig
from tests.support.engine import initialized

pytestmark = pytest.mark.usefixtures("engine")

TINY_MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("tiny*.yaml"))
LENGTHS = [[1, 20, 27], [40, 8], [48]]
SETTINGS = {
    "": {},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    "core_attn": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
}


def described(name: str) -> ModelConfig:
    settings = ["name=x", "data.seq_length=48", "trainer.max_steps=1", "model.vocab_size=256"]
    return compose("pretrain", [*settings, f"model={name}"]).model


def losses_and_gradients(
    model: ModelConfig, batches: list[tuple[Tensor, Tensor, Tensor | None]], parallel: ParallelConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of all tokens, in order, and of the sum of their losses.

    Args:
        batches: text ``[b, s + 1]``, positions ``[b, s]`` and where each one's document starts.
    """
    # Routers draw noise in training mode, and drop what other documents' tokens leave no room for.
    gpt = initialized(model, parallel=parallel).train(model.num_moe_experts is None)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # Away from the initial zeros, through which no gradient would flow.
        for parameter in gpt.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    found = []
    for text, positions, starts in batches:
        tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
        found.append(gpt(tokens, positions, starts, labels=labels).flatten())
    losses = torch.cat(found)
    losses.sum().backward()
    gradients = {name: p.grad for name, p in gpt.named_parameters() if p.grad is not None}
    return losses.detach(), gradients


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", TINY_MODELS)
def test_together_as_alone(name: str, setting: str) -> None:
    model = described(name)
    if setting and model.num_moe_experts is not None:
        pytest.skip("activations are computed again in training mode only")
    text = torch.randint(256, (3, 49), generator=torch.Generator().manual_seed(7))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    starts = (torch.arange(48) - positions).int()
    alone = []
    for row, lengths in zip(text, LENGTHS, strict=True):
        ends = torch.tensor(lengths).cumsum(0).tolist()
        for end, length in zip(ends, lengths, strict=True):
            alone.append((row[None, end - length : end + 1], torch.arange(length)[None], None))
    losses, gradients = losses_and_gradients(
        model, [(text, positions, starts)], ParallelConfig(**SETTINGS[setting])
    )
    expected, expected_gradients = losses_and_gradients(model, alone, ParallelConfig())
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        torch.testing.assert_close(
            gradients[key], gradient, rtol=1e-4, atol=1e-5 * max(1.0, float(gradient.abs().max())), msg=key
        )


@pytest.mark.parametrize("name", TINY_MODELS)
def test_joined_they_are_something_else(name: str) -> None:
    """Otherwise the test above would say nothing."""
    model = described(name)
    text = torch.randint(256, (1, 49), generator=torch.Generator().manual_seed(7))
    positions = torch.cat([torch.arange(20), torch.arange(28)])[None]
    starts = (torch.arange(48) - positions).int()
    apart, _ = losses_and_gradients(model, [(text, positions, starts)], ParallelConfig())
    joined, _ = losses_and_gradients(model, [(text, torch.arange(48)[None], None)], ParallelConfig())
    torch.testing.assert_close(apart[:20], joined[:20], rtol=1e-5, atol=1e-5)
    assert ((apart[20:] - joined[20:]).abs() > 1e-4).float().mean() > 0.9
