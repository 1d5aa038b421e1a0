"""megatron-core's GPTModel with this project's cross entropy."""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import GPTModel as MegatronGPTModel
from torch import Tensor

from recipes.families.model_config import ModelConfig
from recipes.model.cross_entropy import vocab_parallel_cross_entropy


class GPTModel(MegatronGPTModel):
    """All families' model, or its base class. Everything but the loss is megatron-core's."""

    def __init__(self, *, description: ModelConfig, **options: Any) -> None:
        super().__init__(**options)
        self.soft_cap = description.final_logit_softcapping

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels ``[b, s]`` and this rank's logits ``[s, b, V / t]``, used up by it -> losses ``[b, s]``."""
        losses = vocab_parallel_cross_entropy(
            logits.contiguous(), labels.t(), soft_cap=self.soft_cap, group=self.pg_collection.tp
        )
        return losses.t().contiguous()
