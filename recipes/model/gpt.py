"""megatron-core's GPTModel with this project's embeddings, output layer and cross entropy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron.core.models.gpt import GPTModel as MegatronGPTModel
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from recipes.families.model_config import ModelConfig
from recipes.model.cross_entropy import vocab_parallel_cross_entropy
from recipes.model.embedding import VocabParallelEmbedding
from recipes.model.linear import ColumnParallelLinear
from recipes.model.rotary import RotaryEmbedding, SelfAttention


class GPTModel(MegatronGPTModel):
    """All families' model, or its base class. Everything else is megatron-core's."""

    def __init__(self, config: TransformerConfig, *, description: ModelConfig, **options: Any) -> None:
        super().__init__(config=config, **options)
        self.description = description
        self.soft_cap = description.final_logit_softcapping
        self.z_loss_coeff = 0.0
        """optim.z_loss_coeff, in training."""
        if self.position_embedding_type == "rope":
            self.rotary_pos_emb = self.rotary_embedding()
        # megatron-core leaves no choice of these classes. Ours add methods, and nothing that is to be made.
        if self.pre_process:
            self.embedding.word_embeddings.__class__ = VocabParallelEmbedding
        if self.post_process:
            self.output_layer.__class__ = ColumnParallelLinear

    def rotary_embedding(self) -> RotaryEmbedding:
        """Of the described bases."""
        attentions = [getattr(layer, "self_attention", None) for layer in self.decoder.layers]
        # A family from elsewhere may have megatron-core's attention, which wants angles.
        wants_angles = not all(isinstance(attention, SelfAttention) for attention in attentions)
        return RotaryEmbedding(
            self.config,
            rotary_base=self.description.rotary_base,
            rotary_percent=self.description.rotary_percent,
            wants_angles=wants_angles,
        )

    def set_rotary_base(self, base: int) -> None:
        """Rotates positions with this base from now on; nothing kept of the old one is used."""
        self.description, self.rotary_base = replace(self.description, rotary_base=base), base
        self.rotary_pos_emb = self.rotary_embedding()

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Labels ``[b, s]`` and this rank's logits ``[s, b, V / t]``, used up by it -> losses ``[b, s]``."""
        losses = vocab_parallel_cross_entropy(
            logits.contiguous(),
            labels.t(),
            soft_cap=self.soft_cap,
            group=self.pg_collection.tp,
            z_loss_coeff=self.z_loss_coeff,
        )
        return losses.t().contiguous()
