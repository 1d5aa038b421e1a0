"""megatron-core's top-k router, with auxiliary losses that have the same weight under every layout.

With ``calculate_per_token_loss`` the gradients of all micro-batches and ranks are summed and divided by the
number of tokens, so each auxiliary loss must be multiplied by the number of tokens in its micro-batch.
megatron-core 0.16.1 multiplies by fewer: only this rank's where sequence or context parallelism splits a
micro-batch over several ranks, and for the per-sequence loss those of one sequence, however many there are.
tests/model/families/test_llama_experts.py and tests/parallel/test_expert_parallel.py compare the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.moe_utils import z_loss_func
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor
from torch.distributed import ProcessGroup

if not hasattr(moe_utils, "te_general_gemm"):
    # megatron-core 0.16.1 asks whether it is None, but without Transformer Engine the name is never defined.
    moe_utils.te_general_gemm = None


class Router(TopKRouter):
    """Scores in fp32 (``moe_router_dtype``), top-k choice and load balancing by megatron-core."""

    tokens_per_expert: Tensor
    """``[experts]``: tokens sent to each expert by this rank since the last :meth:`reset_token_counts`."""

    def __init__(
        self, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None
    ) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        counts = torch.zeros(config.num_moe_experts, device=torch.cuda.current_device())
        self.register_buffer("tokens_per_expert", counts, persistent=False)

    def reset_token_counts(self) -> None:
        """Sets the tokens per expert back to zero."""
        self.tokens_per_expert.zero_()

    @property
    def has_losses(self) -> bool:
        """Whether this forward pass is differentiated; False in the first of recomputation's two passes."""
        return self.training and torch.is_grad_enabled()

    def attach_and_log_load_balancing_loss(
        self,
        activation: Tensor,
        aux_loss_coeff: float,
        aux_loss: Tensor,
        aux_loss_name: str,
        reduce_group: ProcessGroup,
        reduce_group_has_dp: bool = False,
        valid_token_count: int | Tensor | None = None,
    ) -> Tensor:
        """``aux_loss`` is this rank's share of the micro-batch's loss, including its coefficient.

        ``activation``: ``[tokens, experts]``. ``valid_token_count`` is what megatron-core would multiply by.
        """
        attached: Tensor = super().attach_and_log_load_balancing_loss(
            activation,
            aux_loss_coeff,
            aux_loss,
            aux_loss_name,
            reduce_group,
            reduce_group_has_dp,
            valid_token_count=activation.shape[0] * self.tp_cp_group.size(),
        )
        return attached

    def apply_z_loss(self, logits: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """The router z-loss (arXiv 2202.08906, eq. 5), weighted like the other losses.

        Args:
            logits: ``[tokens, experts]``.
        """
        coefficient = self.config.moe_z_loss_coeff
        if coefficient is None or not self.has_losses:
            return logits
        # The mean over the micro-batch is the mean of the ranks' means, as their parts are of equal size.
        share = z_loss_func(logits, coefficient / self.tp_cp_group.size(), padding_mask)
        return self.attach_and_log_load_balancing_loss(logits, coefficient, share, "z_loss", self.tp_cp_group)

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[s, b, experts]`` -> gates and chosen experts, both ``[s * b, experts]``."""
        gates, chosen = super().routing(logits, padding_mask)
        if self.has_losses:
            self.tokens_per_expert += chosen.detach().sum(dim=0)
        return gates, chosen


def routers(module: torch.nn.Module) -> list[Any]:
    """Every :class:`Router` in a model."""
    return [part for part in module.modules() if isinstance(part, Router)]
