"""Gemma 3's text architecture (Gemma Team 2025, arXiv 2503.19786, section 2), as transformers computes it.

Norms before and after each sub-layer, with gains stored as offsets from 1; norms of queries and keys; a gated
MLP with tanh GELU; word embeddings scaled by sqrt(hidden_size); rotary positions with one base on layers
with full attention and another on windowed layers.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor

from recipes.families.family import layer_windows
from recipes.families.model_config import ModelConfig
from recipes.model.families import Decoding, FamilyLayers, llama
from recipes.model.gpt import GPTModel
from recipes.model.initial_values import NORM_GAINS, Constant, InitialValues, megatron_initial_values
from recipes.model.rotary import RotaryEmbedding, SelfAttention

FULL, WINDOWED = 0, 1  # Indices into the stacked rotary embeddings.


class TwoBaseRotaryEmbedding(RotaryEmbedding):
    """Rotary embeddings of both bases in one tensor, as megatron-core passes only one to its layers.

    Pipeline stages, context parallelism and recomputation treat it like that of a single base.
    """

    def __init__(self, config: TransformerConfig, model: ModelConfig) -> None:
        percent = model.rotary_percent
        super().__init__(config, rotary_base=model.rotary_base, rotary_percent=percent)
        self.windowed = RotaryEmbedding(
            config, rotary_base=model.rotary_base_local or model.rotary_base, rotary_percent=percent
        )

    def forward(self, max_seq_len: int, *args: Any, **options: Any) -> Tensor:
        """FULL and WINDOWED, stacked. The length is this context-parallel rank's part."""
        full = super().forward(max_seq_len, *args, **options)
        return torch.stack((full, self.windowed(max_seq_len, *args, **options)))


class Gemma3Attention(SelfAttention):
    """Self-attention that selects its own layer's rotary embedding."""

    def __init__(self, *args: Any, rotary_index: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rotary_index = rotary_index

    def forward(self, hidden_states: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> ``[s, b, h]`` and no bias; ``rotary_pos_emb`` is of TwoBaseRotaryEmbedding."""
        options["rotary_pos_emb"] = options["rotary_pos_emb"][self.rotary_index]
        return super().forward(hidden_states, **options)


class Gemma3Model(GPTModel):
    """GPTModel with scaled word embeddings and two rotary bases."""

    def __init__(self, config: TransformerConfig, *, description: ModelConfig, **options: Any) -> None:
        super().__init__(config=config, description=description, **options)
        # The factor is rounded to the weights' dtype as in transformers: 25.25 for sqrt(640) in bfloat16.
        factor = torch.tensor(math.sqrt(config.hidden_size), dtype=config.params_dtype, device="cpu")
        self.embedding_factor: float = factor.item()

    def rotary_embedding(self) -> TwoBaseRotaryEmbedding:
        """Of both bases."""
        return TwoBaseRotaryEmbedding(self.config, self.description)

    def _preprocess(
        self, input_ids: Tensor, position_ids: Tensor, decoder_input: Tensor | None = None, **options: Any
    ) -> tuple[Any, ...]:
        if decoder_input is None and self.pre_process:
            embedded = self.embedding(input_ids=input_ids, position_ids=position_ids)
            decoder_input = embedded * self.embedding_factor
        prepared: tuple[Any, ...] = super()._preprocess(input_ids, position_ids, decoder_input, **options)
        return prepared


@cache
def with_post_norm(linear: type, norm: type) -> type:
    """A row-parallel linear layer class whose output is normed, named as NeMo names it in checkpoints.

    One class for all layers: torch.compile would compile each class of its own again.

    The norm belongs to the sub-layer's last matrix rather than to the layer around it: dropout, residual and
    recomputation thus stay megatron-core's, and the weight's name ends in ``linear_*.post_layernorm.weight``.
    """

    class PostNormLinear(linear):
        def __init__(
            self, input_size: int, output_size: int, *, config: TransformerConfig, **options: Any
        ) -> None:
            super().__init__(input_size, output_size, config=config, **options)
            self.post_layernorm = norm(config=config, hidden_size=output_size, eps=config.layernorm_epsilon)

        def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
            output, _ = super().forward(hidden_states)  # The family has no biases.
            return self.post_layernorm(output), None

    return PostNormLinear


def layer_spec(config: TransformerConfig, backend: BackendSpecProvider, *, windowed: bool) -> ModuleSpec:
    """One transformer layer: the Llama line's, plus post-norms and the choice of rotary embedding."""
    spec = llama.layer_spec(config, backend)
    attention, mlp = spec.submodules.self_attention, spec.submodules.mlp
    row_parallel = with_post_norm(backend.row_parallel_linear(), backend.layer_norm())
    attention.module = Gemma3Attention
    attention.params["rotary_index"] = WINDOWED if windowed else FULL
    attention.submodules.linear_proj = row_parallel
    mlp.submodules.linear_fc2 = row_parallel
    return spec


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the final norm."""
    layers = [layer_spec(config, backend, windowed=window is not None) for window in layer_windows(model)]
    return TransformerBlockSubmodules(
        layer_specs=llama.stage_layers(config, layers), layer_norm=backend.layer_norm()
    )


def initial_values(name: str, fan_in: int, model: ModelConfig) -> InitialValues:
    """As in other families, but norm gains are stored as offsets from 1, so they start at 0."""
    if name.endswith(NORM_GAINS):
        return Constant(0.0)
    return megatron_initial_values(name, fan_in, model)


LAYERS = FamilyLayers(
    block_spec=block_spec,
    gpt_model=Gemma3Model,
    initial_values=initial_values,
    decoding=Decoding(scales_embedding=True),
)
