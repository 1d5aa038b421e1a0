"""Value embeddings: tables by token id whose rows are added to attention's values, gated per head."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.jit import jit_fuser
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import (
    ensure_metadata_has_dp_cp_group,
    make_sharded_tensors_for_checkpoint,
)
from megatron.core.utils import divide
from torch import Tensor, nn

from recipes.families.nano_hindi import VALUE_GATE_CHANNELS
from recipes.model.embedding import Table
from recipes.model.linear import ColumnParallelLinear
from recipes.model.rotary import Beside, SelfAttention


class ValueEmbedding(Table):
    """A table ``[vocabulary, KV heads * head width]``; a tensor-parallel rank holds its heads' columns.

    Split by heads rather than by rows, as word embeddings are: values are split by heads, so nothing has to
    be summed over the ranks.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int, tp_group: Any) -> None:
        super().__init__()
        self.tp_group = tp_group
        self.deterministic = config.deterministic_mode
        self.head_width = config.kv_channels
        columns = divide(config.num_query_groups, tp_group.size()) * config.kv_channels
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(torch.empty(vocab_size, columns, dtype=config.params_dtype, device=device))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=1, stride=1)

    def forward(self, token_ids: Tensor) -> Tensor:
        """``[s, b]`` -> ``[s, b, this rank's KV heads, head width]``."""
        # As in megatron-core's word embeddings: F.embedding's backward pass sums in no fixed order.
        rows = self.weight[token_ids] if self.deterministic else self.rows(token_ids)
        return rows.view(*token_ids.shape, -1, self.head_width)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Where this rank's columns lie in the whole table, for checkpoints and initial values."""
        metadata = ensure_metadata_has_dp_cp_group(metadata)
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"weight": 1},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
        return sharded


class ValueEmbeddedAttention(SelfAttention):
    """Self-attention with a value embedding (Zhou et al. 2024, arXiv 2410.17897, made a table by token id).

    ``v = v + 2 * sigmoid(W_gate x[..., :32]) * table[token id]``, one gate per KV head, where x is what the
    attention projections read. A gate of zeros lets the table's rows through unchanged.
    """

    def __init__(self, config: TransformerConfig, *args: Any, vocab_size: int, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.value_embedding = ValueEmbedding(config, vocab_size, self.tp_group)
        self.value_gate = ColumnParallelLinear(
            VALUE_GATE_CHANNELS,
            config.num_query_groups,
            config=config,
            init_method=config.init_method,
            bias=False,
            tp_group=self.tp_group,
        )

    def forward(self, hidden_states: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> ``[s, b, h]`` and no bias.

        ``attention_bias`` holds the token ids ``[s, b]``, of the whole sequence under sequence parallelism.
        megatron-core's layer can pass this argument to its attention, and causal attention does not need it.
        """
        return super().forward(hidden_states, key_value_states=options.pop("attention_bias"), **options)

    def get_query_key_value_tensors(
        self, hidden_states: Tensor, key_value_states: Beside, *args: Any, **options: Any
    ) -> tuple[Tensor, ...]:
        """``[s, b, h]`` and token ids ``[s, b]`` -> q, k and v, ``[s, b, heads, head width]`` each."""
        query, key, value = super().get_query_key_value_tensors(
            hidden_states, key_value_states, *args, **options
        )
        gate_input = hidden_states[..., :VALUE_GATE_CHANNELS]
        if self.config.sequence_parallel:
            gate_input = gate_input.contiguous()  # The linear layer cannot gather a strided view.
        gate, _ = self.value_gate(gate_input)
        return query, key, _add_gated(value, gate, self.value_embedding(key_value_states.key_value_states))


@jit_fuser
def _add_gated(value: Tensor, gate: Tensor, embedded: Tensor) -> Tensor:
    """``value`` and ``embedded`` ``[s, b, heads, d]``, ``gate`` ``[s, b, heads]`` before its sigmoid."""
    return torch.addcmul(value, torch.sigmoid(gate).unsqueeze(-1), embedded, value=2.0)
