"""The Llama line (Param-1, Lumen, Param-2): pre-norm, rotary positions, grouped-query attention, gated MLP.

With ``qk_layernorm`` it is Qwen3's kind, with ``num_moe_experts`` a mixture of experts.
"""

from __future__ import annotations

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.transformer import ModuleSpec, TransformerConfig, TransformerLayer
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import (
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from recipes.config.schema import ModelConfig
from recipes.model.families import Family


def layer_spec(backend: BackendSpecProvider) -> ModuleSpec:
    """One transformer layer.

    Transformer Engine fuses each norm into the linear layer behind it; without it the norms are modules of
    their own, and the map gives their weights Transformer Engine's names in checkpoints.
    """
    fused = backend.fuse_layernorm_and_linear()
    norm = IdentityOp if fused else backend.layer_norm()
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=(
                        backend.column_parallel_layer_norm_linear()
                        if fused
                        else backend.column_parallel_linear()
                    ),
                    core_attention=backend.core_attention(),
                    linear_proj=backend.row_parallel_linear(),
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=get_mlp_module_spec_for_backend(backend=backend),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=(
                {}
                if fused
                else {
                    "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                    "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
                }
            ),
        ),
    )


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the final norm."""
    layers = stage_layers(config, [layer_spec(backend)] * config.num_layers)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=backend.layer_norm())


def stage_layers(config: TransformerConfig, layers: list[ModuleSpec]) -> list[ModuleSpec]:
    """Of all layers of the model those that this pipeline stage builds."""
    first = get_transformer_layer_offset(config)
    return layers[first : first + get_num_layers_to_build(config)]


FAMILY = Family(block_spec=block_spec, gpt_model=GPTModel)
