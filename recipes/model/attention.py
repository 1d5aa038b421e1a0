"""Core attention through PyTorch's scaled_dot_product_attention, for machines without Transformer Engine."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import divide
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from recipes.errors import UserError

# Settings of attention that are Transformer Engine's alone, and what they are when they change nothing.
PLAIN_SETTINGS = {
    "apply_query_key_layer_scaling": False,
    "context_parallel_size": 1,
    "qk_clip": False,
    "softmax_type": "vanilla",
    "window_size": None,
}


class SDPACoreAttention(MegatronModule):
    """Softmax attention with grouped queries; the attention matrix is never stored.

    Takes the place of megatron-core's DotProductAttention, which is 1.5 times slower on the CPU and keeps
    ``[b, heads, s, s]`` for the backward pass.
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
        for field, plain in PLAIN_SETTINGS.items():
            if getattr(config, field) != plain:
                value = getattr(config, field)
                raise UserError(
                    f"model.megatron.{field}={value}: needs Transformer Engine's attention; remove it"
                )
        self.attn_mask_type = attn_mask_type
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.softmax_scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        tensor_parallel = config.tensor_model_parallel_size
        heads = divide(config.num_attention_heads, tensor_parallel)
        self.grouped = divide(config.num_query_groups, tensor_parallel) != heads
        self.hidden_size_per_partition = heads * config.kv_channels

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
            query: ``[s, b, heads, d]``.
            key: ``[s_k, b, groups, d]``; longer than the query while decoding with a cache.
            value: ``[s_k, b, groups, d]``.
            attention_mask: must be None: the mask is causal, or none while decoding one token.

        Returns:
            ``[s, b, heads * d]``.
        """
        if attention_mask is not None or attention_bias is not None or packed_seq_params is not None:
            raise ValueError("SDPACoreAttention takes no mask, bias or packed sequences: it is causal")
        mask_type = attn_mask_type or self.attn_mask_type
        causal = mask_type == AttnMaskType.causal and query.shape[0] > 1
        if causal and query.shape[0] != key.shape[0]:
            raise ValueError(
                "several new tokens cannot be decoded at once: SDPA aligns the causal mask at the start"
            )
        dropout = self.dropout if self.training else 0.0
        # Each tensor-parallel rank has heads of its own, which must not all drop the same places. With
        # sequence parallelism megatron-core has already switched to the rank's own random state.
        own_random_state = dropout > 0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_random_state else nullcontext():
            out = scaled_dot_product_attention(
                query.permute(1, 2, 0, 3),
                key.permute(1, 2, 0, 3),
                value.permute(1, 2, 0, 3),
                dropout_p=dropout,
                is_causal=causal,
                scale=self.softmax_scale,
                enable_gqa=self.grouped,
            )
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], self.hidden_size_per_partition)
