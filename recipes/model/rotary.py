"""Rotary positions whose cosines and sines are computed once for all layers.

megatron-core hands angles to its layers, and each computes their cosines and sines again, in both passes and,
once a layer is compiled, for every head: five times what the rotation itself costs on an H200. Transformer
Engine has a kernel of its own, which wants the angles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from megatron.core.models.common.embeddings.rope_utils import _rotate_half
from megatron.core.models.common.embeddings.rotary_pos_embedding import (
    RotaryEmbedding as MegatronRotaryEmbedding,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention as MegatronSelfAttention
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor

from recipes.model.qkv import rotated_qkv, works_on_gpu

ANGLES = 4
"""Dimensions of megatron-core's own rotary embedding, ``[s, 1, 1, r]``."""


class RotaryEmbedding(MegatronRotaryEmbedding):
    """megatron-core's rotary angles, as cosines and sines unless Transformer Engine's kernel rotates."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        rotary_base: int,
        rotary_percent: float,
        wants_angles: bool = False,
    ) -> None:
        super().__init__(
            kv_channels=config.kv_channels,
            rotary_percent=rotary_percent,
            rotary_interleaved=config.rotary_interleaved,
            rotary_base=rotary_base,
            use_cpu_initialization=config.use_cpu_initialization,
        )
        self.wants_angles = wants_angles or config.apply_rope_fusion
        self.tables: tuple[Tensor, Tensor] | None = None

    def forward(self, max_seq_len: int, *args: Any, **options: Any) -> Tensor:
        """``[2, s, 1, 1, r]`` in fp32: cosines, then sines, of the rotated ``r`` channels; or their angles.

        ``s`` is this context-parallel rank's part. megatron-core passes only one tensor to its layers.
        """
        angles: Tensor = super().forward(max_seq_len, *args, **options)
        if self.wants_angles:
            return angles
        if self.tables is None or self.tables[0] is not angles:  # megatron-core keeps angles of all lengths.
            self.tables = angles, torch.stack((angles.cos(), angles.sin()))
        return self.tables[1]


class Beside(NamedTuple):
    """What queries, keys and values are made from besides the hidden states."""

    rotary: Tensor | None
    """``[2, s, 1, 1, r]`` of :class:`RotaryEmbedding`, for the positions of the hidden states."""
    key_value_states: Tensor | None


class SelfAttention(MegatronSelfAttention):
    """megatron-core's self-attention, also for the tables of :class:`RotaryEmbedding`.

    Queries and keys are rotated as soon as they are made. A cache thus holds rotated keys, where
    megatron-core's rotates all its keys again for each new token.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.rotates_in_one_pass = self._can_rotate_in_one_pass() and torch.cuda.is_available()
        if self.rotates_in_one_pass:
            self.rotates_in_one_pass = works_on_gpu(torch.device("cuda", torch.cuda.current_device()))
        self.norms_groups = self._can_norm_groups()

    def _can_rotate_in_one_pass(self) -> bool:
        """Where nothing comes between projection and rotation, for all channels of whole groups of heads."""
        config, width = self.config, self.hidden_size_per_attention_head
        norms = self.q_layernorm, self.k_layernorm
        return (
            all(norm is None or isinstance(norm, IdentityOp) for norm in norms)
            and not (config.attention_output_gate or config.rotary_interleaved)
            and config.num_query_groups >= self.world_size  # Else ranks share a group.
            and width >= 32
            and width.bit_count() == 1  # Triton's blocks are powers of two.
        )

    def _can_norm_groups(self) -> bool:
        """Where queries and keys are normed, and a rank has whole groups of heads."""
        config = self.config
        return (
            self.q_layernorm is not None
            and self.k_layernorm is not None
            and not config.attention_output_gate
            and not config.rotary_interleaved  # megatron-core turns neighbours in [s, b, heads, d] alone.
            and config.num_query_groups >= self.world_size  # Else ranks share a group.
        )

    def forward(
        self,
        hidden_states: Tensor,
        *,
        key_value_states: Tensor | None = None,
        inference_context: Any = None,
        rotary_pos_emb: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> ``[s, b, h]`` and the bias ``[h]`` if there is one."""
        every = self.config.no_rope_freq
        if every and every[self.layer_number - 1]:
            rotary_pos_emb = None
        if rotary_pos_emb is not None and rotary_pos_emb.dim() == ANGLES:
            options["rotary_pos_emb"], rotary_pos_emb = rotary_pos_emb, None
        elif rotary_pos_emb is not None and inference_context is not None:
            rotary_pos_emb = rotary_pos_emb[:, inference_context.sequence_len_offset :]
        # Self-attention has no use for key_value_states, and passes them on to the method below.
        output: tuple[Tensor, Tensor | None] = super().forward(
            hidden_states,
            key_value_states=Beside(rotary_pos_emb, key_value_states),
            inference_context=inference_context,
            **options,
        )
        return output

    def get_query_key_value_tensors(
        self, hidden_states: Tensor, key_value_states: Beside, *args: Any, **options: Any
    ) -> tuple[Tensor, ...]:
        """Hidden states ``[s, b, h]`` -> q, k and v (and a gate), ``[s, b, heads, head width]`` each."""
        tables = key_value_states.rotary
        all_channels = tables is not None and tables.shape[-1] == self.hidden_size_per_attention_head
        if tables is not None and all_channels and self.rotates_in_one_pass:
            mixed, _ = super().get_query_key_value_tensors(hidden_states, None, split_qkv=False)
            return rotated_qkv(mixed, tables[:, : mixed.shape[0], 0, 0])
        if tables is not None and self.norms_groups:
            return self._normed_and_rotated(hidden_states, tables)
        query, key, *others = super().get_query_key_value_tensors(hidden_states, None, *args, **options)
        if tables is not None:
            cos, sin = tables[:, : query.shape[0]].to(query.dtype)
            query, key = (_rotate(x, cos, sin, self.config.rotary_interleaved) for x in (query, key))
        return query, key, *others

    def _normed_and_rotated(self, hidden_states: Tensor, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As megatron-core does it, which copies queries before their norm to put heads side by side."""
        mixed, _ = super().get_query_key_value_tensors(hidden_states, None, split_qkv=False)
        heads = mixed.unflatten(-1, (-1, self.hidden_size_per_attention_head))  # [s, b, groups, heads, d]
        query, key, value = heads.split((heads.shape[-2] - 2, 1, 1), dim=-2)
        cos, sin = tables[:, : len(heads), :, None].to(heads.dtype)
        query, key = self.q_layernorm(query), self.k_layernorm(key)
        query, key = (_rotate(x, cos, sin, interleaved=False) for x in (query, key))
        return query.flatten(2, 3), key.flatten(2, 3), value.flatten(2, 3)


def _rotate(states: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotates pairs of the first r channels (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Args:
        states: ``[s, ..., d]``.
        cos: ``[s, 1, ..., r]``, as sin.
    """
    channels = cos.shape[-1]
    turned = states[..., :channels]
    turned = turned * cos + _rotate_half(turned, interleaved) * sin
    return turned if channels == states.shape[-1] else torch.cat((turned, states[..., channels:]), dim=-1)
