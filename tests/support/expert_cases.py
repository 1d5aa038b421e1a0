"""Cases about experts that pool workers run."""

from __future__ import annotations

from typing import Any

from recipes.config.schema import ParallelConfig
from recipes.config.world import launched_world
from recipes.families.model_config import ModelConfig


def pretrain_with_equal_noise(overrides: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """A whole run of recipes.pretrain in which a token's noise follows from its hidden state.

    So every layout routes it alike; otherwise each process has noise of its own.
    """
    import torch

    from recipes.model.noisy_router import NoisyTopKRouter
    from tests.support.cases import pretrain_case

    def from_content(self: Any, input: Any, logits: Any) -> Any:
        return torch.sin(37 * input[..., : logits.shape[-1]].detach())

    drawn = NoisyTopKRouter.standard_normal
    NoisyTopKRouter.standard_normal = from_content  # type: ignore[method-assign]
    try:
        return pretrain_case(overrides)
    finally:
        NoisyTopKRouter.standard_normal = drawn  # type: ignore[method-assign]


def initial_experts(model: ModelConfig, parallel: ParallelConfig) -> dict[tuple[str, int], Any]:
    """This rank's initial expert parameters as arrays, by name and the expert's number in the model."""
    from recipes.model.build import MoELayer
    from tests.support.engine import initialized, process_groups

    with process_groups(parallel, launched_world()):
        gpt = initialized(model, 1, parallel)
        found = {}
        for name, layer in gpt.named_modules():
            if isinstance(layer, MoELayer):
                for number, expert in zip(
                    layer.local_expert_indices, layer.experts.local_experts, strict=True
                ):
                    for part, parameter in expert.named_parameters():
                        found[f"{name}.{part}", number] = parameter.detach().cpu().numpy().copy()
        return found


def router_noise(parallel: ParallelConfig, seed: int) -> Any:
    """Two draws of this rank's router noise after seeding, then the random state that dropout uses."""
    from dataclasses import replace

    import torch

    from recipes.model.router import routers
    from recipes.parallel.setup import seed_random_states
    from tests.support.engine import TINY, initialized, process_groups

    model = replace(TINY, family="param_moe", num_moe_experts=4, normalization="LayerNorm", activation="gelu")
    model = replace(model, add_bias_linear=True, position_embedding_type="learned_absolute")
    with process_groups(parallel, launched_world()):
        router = routers(initialized(model, 1, parallel))[0]
        seed_random_states(seed)
        logits = torch.zeros(8, 2, 4, device="cuda")
        noise = [router.standard_normal(logits, logits).cpu().numpy() for _ in range(2)]
        return noise, torch.rand(4, device="cuda").cpu().numpy()
