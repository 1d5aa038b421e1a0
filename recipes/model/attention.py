"""Core attention through PyTorch's scaled_dot_product_attention, for machines without Transformer Engine."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import divide
from torch import Tensor

from recipes.errors import UserError
from recipes.model.causal import causal_attention
from recipes.model.context_parallel import context_parallel_attention
from recipes.model.windows import layer_window

# Attention settings that only Transformer Engine supports, and the values at which they have no effect.
NEUTRAL_SETTINGS = {
    "apply_query_key_layer_scaling": False,
    "qk_clip": False,
    "log_max_attention_logit": False,
    "softmax_type": "vanilla",
}


class SDPACoreAttention(MegatronModule):
    """Causal softmax attention with grouped queries, full or windowed; the attention matrix is never stored.

    Replaces megatron-core's DotProductAttention, which is 1.5 times slower on the CPU and keeps
    ``[b, heads, s, s]`` for the backward pass. Windows and context parallelism are set by the same fields of
    TransformerConfig as for Transformer Engine's attention.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__(config=config)
        for field, neutral in NEUTRAL_SETTINGS.items():
            if (value := getattr(config, field)) != neutral:
                raise UserError(
                    f"model.megatron.{field}={value}: needs Transformer Engine's attention; remove it"
                )
        if attn_mask_type != AttnMaskType.causal:
            raise ValueError(f"SDPACoreAttention is causal, {attn_mask_type} was asked for")
        if cp_comm_type not in (None, "all_gather"):
            raise UserError(
                f"model.megatron.cp_comm_type={cp_comm_type}: without Transformer Engine there is all_gather "
                "only; remove it"
            )
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.window = layer_window(config, layer_number)
        if self.window is not None and self.dropout > 0 and torch.cuda.is_available():
            raise UserError(
                f"model.attention_dropout={self.dropout}: the windowed kernels on the GPU have no dropout; "
                "set it to 0 or install Transformer Engine"
            )
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        heads = divide(config.num_attention_heads, config.tensor_model_parallel_size)
        self.hidden_size_per_partition = heads * config.kv_channels
        self.context_group = None
        if config.context_parallel_size > 1:
            self.context_group = (
                pg_collection.cp if pg_collection else parallel_state.get_context_parallel_group()
            )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attends within each sequence.

        Args:
            query: ``[s, b, heads, d]``; the last ``s`` positions of the keys. Under context parallelism this
                rank's two chunks of the sequence, as megatron-core splits it.
            key: ``[s_k, b, groups, d]``; longer than the query while decoding with a cache.
            value: ``[s_k, b, groups, d]``.
            attention_mask: where each query's document starts in the sequence, ``[b, s]`` of integers: it
                sees no key before. None: all before its own.
            attn_mask_type: causal; or none, which megatron-core passes in every step after the prompt
                because one new token sees the whole cache. Several new tokens are still masked causally, and
                a window applies to all.

        Returns:
            ``[s, b, heads * d]``.
        """
        starts = attention_mask
        if starts is not None and (starts.dim() != 2 or starts.dtype.is_floating_point):
            raise ValueError("SDPACoreAttention takes no mask: it is causal; documents have starts, [b, s]")
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("SDPACoreAttention takes no bias or packed sequences: it is causal")
        if attn_mask_type not in (None, AttnMaskType.causal, AttnMaskType.no_mask):
            raise ValueError(f"SDPACoreAttention is causal, {attn_mask_type} was asked for")
        dropout = self.dropout if self.training else 0.0
        attend = partial(self._attend, dropout=dropout, starts=starts)
        # Each tensor-parallel rank has different heads, which must not all drop the same positions. With
        # sequence parallelism megatron-core has already switched to the rank's own random state. A rank that
        # has all heads need not switch, at which torch's compiler would cut every layer into pieces.
        is_split = self.config.tensor_model_parallel_size > 1 and not self.config.sequence_parallel
        own_random_state = dropout > 0 and is_split
        with get_cuda_rng_tracker().fork() if own_random_state else nullcontext():
            if self.context_group is not None:
                if starts is not None:
                    raise ValueError("documents cannot be attended separately under context parallelism")
                out = context_parallel_attention(query, key, value, self.context_group, attend)
            else:
                out = attend(query, key, value)
        return out.reshape(query.shape[0], query.shape[1], self.hidden_size_per_partition)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, starts: Tensor | None
    ) -> Tensor:
        """Causal attention of ``[s, b, heads, d]`` on ``[s_k, b, groups, d]``."""
        out = causal_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            scale=self.softmax_scale,
            window=self.window,
            dropout=dropout,
            starts=starts,
        )
        return out.permute(2, 0, 1, 3)
