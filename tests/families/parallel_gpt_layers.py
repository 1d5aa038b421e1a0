"""The layers of parallel_gpt.py: the Llama line's, computed side by side."""

from __future__ import annotations

from typing import Any

from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig, TransformerLayer
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor

from recipes.families.model_config import ModelConfig
from recipes.model.families import FamilyLayers
from recipes.model.families.llama import layer_spec, stage_layers


class ParallelLayer(TransformerLayer):
    """``x + attention(norm(x)) + mlp(other norm(x))`` in place of one after the other."""

    def forward(
        self, hidden_states: Tensor, *args: Any, padding_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> ``[s, b, h]`` and ``context`` as it was."""
        options.pop("dynamic_inference_decode_only", None)
        with_attention, context = self._forward_attention(hidden_states, *args, **options)
        through_mlp = self.mlp(self.pre_mlp_layernorm(hidden_states))
        add = self.mlp_bda(self.training, self.config.bias_dropout_fusion)
        return add(through_mlp, with_attention, self.hidden_dropout), context


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the final norm."""
    layer = layer_spec(config, backend)
    layer.module = ParallelLayer
    return TransformerBlockSubmodules(
        layer_specs=stage_layers(config, [layer] * model.num_layers), layer_norm=backend.layer_norm()
    )


LAYERS = FamilyLayers(block_spec=block_spec, gpt_model=GPTModel)
