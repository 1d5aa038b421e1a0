"""Activations computed again in the backward pass give the same gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from recipes.config.hydra_app import compose
from recipes.config.jobs import CONF_DIR
from recipes.config.schema import ParallelConfig
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig
from recipes.model.backend import have_transformer_engine
from recipes.parallel.setup import seed_random_states
from tests.support.engine import initialized

pytestmark = pytest.mark.usefixtures("engine")

TINY_MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("tiny*.yaml"))
SETTINGS = {
    "full_uniform": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
    "full_uniform_2": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 2,
    },
    "full_block": {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1},
    "core_attn": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "mlp": {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
    "moe": {"recompute_granularity": "selective", "recompute_modules": ["moe"]},
    "shared_experts": {"recompute_granularity": "selective", "recompute_modules": ["shared_experts"]},
}


def described(name: str) -> ModelConfig:
    model = compose(
        "pretrain", ["name=x", "data.seq_length=48", "trainer.max_steps=1", f"model={name}"]
    ).model
    return replace(model, vocab_size=256)


class Kept:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def gradients(model: ModelConfig, parallel: ParallelConfig) -> tuple[dict[str, Any], int]:
    """Gradients by name, and how many bytes autograd kept for the backward pass."""
    gpt = initialized(model, parallel=parallel).train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # Away from the initial zeros, through which no gradient would flow.
        for parameter in gpt.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
    text = torch.randint(256, (2, 49), generator=generator).to("cuda")
    positions = torch.arange(48, device="cuda").expand(2, -1)
    kept: WeakSet[Kept] = WeakSet()  # What a graph that is dropped again had saved leaves it.

    def keep(tensor: Any) -> Kept:
        saved = Kept(tensor)
        kept.add(saved)
        return saved

    seed_random_states(1)  # Noisy routers draw as they did.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        loss = gpt(text[:, :-1].contiguous(), positions, None, labels=text[:, 1:].contiguous()).mean()
    storages = [saved.tensor.untyped_storage() for saved in kept]
    size = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    del storages
    loss.backward()
    found = {name: p.grad.clone() for name, p in gpt.named_parameters() if p.grad is not None}
    return found, size


def applies(setting: str, model: ModelConfig) -> bool:
    if setting == "full_uniform_2" and model.num_layers % 2:
        return False  # Refused: chunks must come out even.
    if setting == "shared_experts":
        return model.moe_shared_expert_intermediate_size is not None
    return setting != "moe" or model.num_moe_experts is not None


@pytest.mark.parametrize("name", TINY_MODELS)
def test_gradients_are_the_same(name: str) -> None:
    model = described(name)
    expected, kept = gradients(model, ParallelConfig())
    for setting, values in SETTINGS.items():
        if not applies(setting, model):
            continue
        found, kept_less = gradients(model, ParallelConfig(**values))
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            if model.family == "nano_hindi":  # Every layer adds to x0's gradient, in another order then.
                torch.testing.assert_close(
                    found[key], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max())
                )
            else:
                assert torch.equal(found[key], gradient), f"{setting}: {key}"
        assert kept_less < kept, f"{setting} kept as much as without it"


def test_layernorm_needs_transformer_engine() -> None:
    if have_transformer_engine():
        pytest.skip("it is there")
    with pytest.raises(UserError, match="recompute_modules=layernorm: needs Transformer Engine"):
        initialized(
            described("tiny"),
            parallel=ParallelConfig(recompute_granularity="selective", recompute_modules=["layernorm"]),
        )


def test_dropout_is_repeated() -> None:
    """The backward pass drops the same places as the forward pass did."""
    model = replace(described("tiny"), hidden_dropout=0.2, attention_dropout=0.2)
    seed_random_states(1)
    expected, _ = gradients(model, ParallelConfig())
    seed_random_states(1)
    found, _ = gradients(model, ParallelConfig(**SETTINGS["full_uniform"]))
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-7)
