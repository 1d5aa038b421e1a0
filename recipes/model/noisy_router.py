"""Noisy top-k gating and its balancing losses: Shazeer et al. 2017 (arXiv 1701.06538).

With x one token's hidden state, the clean logits are x W_g and, while training, each expert's logit gets
eps * softplus(x W_noise) added, eps standard normal and independent for every token and expert (eq. 4). The
k largest noisy logits choose the experts; their softmax weights them (eq. 3 and 5). Evaluation adds no noise.

Both losses are squared coefficients of variation (population variance / mean^2) over the experts, of sums
over the tokens of one micro-batch of one data-parallel rank. Where sequence or context parallelism splits
that micro-batch, the sums go over all its ranks.
"""

from __future__ import annotations

from copy import copy

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    router_gating_linear,
    save_to_aux_losses_tracker,
)
from torch import Tensor
from torch.nn.functional import softplus

from recipes.model.router import Router
from recipes.parallel.setup import ROUTER_NOISE


class NoisyTopKRouter(Router):
    """``weight`` is W_g and ``noise_weight`` W_noise, both ``[experts, h]`` without bias."""

    importance_loss_coeff = 0.0
    load_loss_coeff = 0.0

    def __init__(
        self, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None
    ) -> None:
        without_bias = copy(config)  # Only the router has none; experts and attention output have biases.
        without_bias.add_bias_linear = False
        super().__init__(config=without_bias, pg_collection=pg_collection)
        self.noise_weight = torch.nn.Parameter(torch.empty_like(self.weight))
        self.noise_weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, input: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[s, b, h]`` -> gates and chosen experts, both ``[s * b, experts]``."""
        clean = self.gating(input)
        if not self.training:
            return self.routing(clean)
        deviation = softplus(router_gating_linear(input, self.noise_weight, None, clean.dtype))
        noisy = clean + self.standard_normal(input, clean) * deviation
        gates, chosen = self.routing(noisy)
        if self.has_losses:
            gates = self._with_balancing_losses(gates, clean.flatten(0, 1), deviation.flatten(0, 1), noisy)
        return gates, chosen

    def standard_normal(self, input: Tensor, logits: Tensor) -> Tensor:
        """The noise eps for ``logits`` ``[s, b, experts]``.

        Each rank has its own random state, as data-, sequence- and context-parallel ranks hold different
        tokens. (Tensor-parallel ranks that hold the same tokens do not train experts, see
        recipes/config/validate_parallel.py.) megatron-core tracks the state, so that recomputation in the
        backward pass draws the same noise again.
        """
        with get_cuda_rng_tracker().fork(ROUTER_NOISE):
            return torch.randn_like(logits)

    def _with_balancing_losses(
        self, gates: Tensor, clean: Tensor, deviation: Tensor, noisy: Tensor
    ) -> Tensor:
        noisy = noisy.flatten(0, 1)
        if self.importance_loss_coeff:
            importance = chosen_gates(noisy, self.topk).sum(dim=0)
            gates = self._attach(gates, importance, self.importance_loss_coeff, "importance_loss")
        if self.load_loss_coeff:
            load = probability_of_choice(clean, noisy, deviation, self.topk).sum(dim=0)
            gates = self._attach(gates, load, self.load_loss_coeff, "load_loss")
        return gates

    def _attach(self, gates: Tensor, per_expert: Tensor, coefficient: float, name: str) -> Tensor:
        """Adds a loss's gradient in the backward pass and its value to megatron-core's tracker.

        ``per_expert`` is this rank's part of the sum over the micro-batch's tokens.
        """
        ranks = self.tp_cp_group.size()
        # In the backward pass this sum is the identity: every rank holds the whole loss, and the gradient of
        # its own tokens.
        loss = squared_variation(reduce_from_tensor_model_parallel_region(per_expert, self.tp_cp_group))
        save_to_aux_losses_tracker(
            name, loss / ranks, self.layer_number, self.config.num_layers, reduce_group=self.tp_cp_group
        )
        tokens = gates.shape[0] * ranks  # The step's gradient is divided by all its tokens.
        attached: Tensor = MoEAuxLossAutoScaler.apply(gates, coefficient * loss * tokens)
        return attached


def noisy_router(importance_loss_coeff: float, load_loss_coeff: float) -> type[NoisyTopKRouter]:
    """The router with its losses' coefficients, for which megatron-core's configuration has no fields."""
    coefficients = {"importance_loss_coeff": importance_loss_coeff, "load_loss_coeff": load_loss_coeff}
    return type("NoisyTopKRouter", (NoisyTopKRouter,), coefficients)


def chosen_gates(noisy: Tensor, k: int) -> Tensor:
    """G(x): softmax over the ``k`` largest logits, 0 elsewhere (eq. 3 and 5). ``[tokens, experts]``.

    Tokens that an expert's capacity later drops are still counted, as the router chose them.
    """
    values, experts = noisy.topk(k, dim=-1)
    return torch.zeros_like(noisy).scatter(-1, experts, values.softmax(dim=-1))


def probability_of_choice(clean: Tensor, noisy: Tensor, deviation: Tensor, k: int) -> Tensor:
    """P(x, i), eq. 8 and 9: the probability that expert i is among the k if only its own noise is redrawn.

    Normal CDF of (clean logit - k-th largest noisy logit of the other experts) / deviation. ``k`` is less
    than the number of experts. All ``[tokens, experts]``.
    """
    largest = noisy.topk(k + 1, dim=-1).values
    kth, next_largest = largest[:, k - 1 : k], largest[:, k : k + 1]
    threshold = torch.where(noisy >= kth, next_largest, kth)
    return torch.special.ndtr((clean - threshold) / deviation)


def squared_variation(per_expert: Tensor) -> Tensor:
    """CV^2 (eq. 7 and 11): population variance over squared mean."""
    return per_expert.var(unbiased=False) / per_expert.mean() ** 2
