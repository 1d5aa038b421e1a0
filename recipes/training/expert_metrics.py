"""How evenly the experts are used: the figures in metrics.jsonl for a mixture of experts.

``moe.aux_loss``, ``moe.seq_aux_loss``, ``moe.z_loss``, ``moe.importance_loss`` and ``moe.load_loss`` are
without their coefficients, as means over the step's micro-batches, the data-parallel ranks and the layers
with experts. The first two are 1 when all experts get equally much, the last two 0.
``moe.max_load``: tokens of the fullest expert over the mean of its layer's experts, in the worst layer.
``moe.load.layer_03``: of every expert of a layer, its tokens over the mean of that layer's experts.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_utils import (
    get_moe_layer_wise_logging_tracker,
    reduce_aux_losses_tracker_across_ranks,
)

from recipes.families.model_config import ModelConfig, moe_layers
from recipes.model.router import routers
from recipes.training.norms import layer_names


def tracked_losses(model: ModelConfig) -> dict[str, str]:
    """megatron-core's name -> ours, for every load-balancing loss that the model trains with."""
    coefficients = {
        ("load_balancing_loss", "moe.aux_loss"): model.moe_aux_loss_coeff
        * (model.moe_router_load_balancing_type == "aux_loss"),
        ("seq_load_balancing_loss", "moe.seq_aux_loss"): model.moe_aux_loss_coeff
        * (model.moe_router_load_balancing_type == "seq_aux_loss"),
        ("z_loss", "moe.z_loss"): model.moe_z_loss_coeff,
        ("importance_loss", "moe.importance_loss"): model.moe_importance_loss_coeff,
        ("load_loss", "moe.load_loss"): model.moe_load_loss_coeff,
    }
    return dict(names for names, coefficient in coefficients.items() if coefficient)


def reset_expert_usage(gpt: GPTModel) -> None:
    """To be called before a step, so that the figures reported after it are this step's alone."""
    # megatron-core's own function would keep an earlier model's layers and process groups.
    get_moe_layer_wise_logging_tracker().clear()
    for router in routers(gpt):
        router.reset_token_counts()


def expert_usage(
    gpt: GPTModel, model: ModelConfig, micro_batches: int, *, each_expert: bool = False
) -> dict[str, float | list[float]]:
    """The step's figures, the same on every rank. All ranks must call it.

    Args:
        micro_batches: how many one rank had in the step.
        each_expert: with moe.load.
    """
    layers = sum(moe_layers(model))
    names = tracked_losses(model)
    tracker = get_moe_layer_wise_logging_tracker()
    group = parallel_state.get_tensor_and_context_parallel_group()
    for name in names:
        # A pipeline stage without experts has recorded nothing, but must take part in the sums.
        zeros = torch.zeros(model.num_layers, device=torch.cuda.current_device())
        tracker.setdefault(name, {"values": zeros, "reduce_group": group, "avg_group": None})
    reduce_aux_losses_tracker_across_ranks(list(names))
    figures: dict[str, float | list[float]] = {
        ours: tracker[name]["values"].sum().item() / (layers * micro_batches) for name, ours in names.items()
    }
    loads = _loads(gpt, model)
    figures["moe.max_load"] = max(max(load) for load in loads.values())
    if each_expert:
        figures |= {f"moe.load.{layer}": load for layer, load in loads.items()}
    return figures


def _loads(gpt: GPTModel, model: ModelConfig) -> dict[str, list[float]]:
    """Of each layer with experts, their tokens over the mean of that layer's."""
    assert model.num_moe_experts is not None
    tokens = torch.zeros(model.num_layers, model.num_moe_experts, device=torch.cuda.current_device())
    for router in routers(gpt):
        tokens[router.layer_number - 1] = router.tokens_per_expert
    # Every rank has routed different tokens or has different layers.
    dist.all_reduce(tokens)
    loads = (tokens / tokens.mean(dim=1, keepdim=True).clamp(min=1e-9)).tolist()
    names = layer_names(model.num_layers)
    has_experts = moe_layers(model)
    return {names[layer]: loads[layer] for layer in range(model.num_layers) if has_experts[layer]}
