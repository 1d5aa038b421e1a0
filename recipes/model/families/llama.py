"""The Llama line (Param-1, Lumen, Param-2): pre-norm, rotary positions, grouped-query attention, gated MLP.

With ``qk_layernorm`` it is like Qwen3; with ``num_moe_experts`` layers hold a mixture of experts, like
Mixtral's with softmax scores and like DeepSeek-V3's with sigmoid scores and an expert bias.
"""

from __future__ import annotations

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.backends import BackendSpecProvider
from megatron.core.models.gpt.gpt_layer_specs import get_mlp_module_spec_for_backend
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec_for_backend
from megatron.core.transformer import ModuleSpec, TransformerConfig, TransformerLayer
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_layer import (
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)

from recipes.families.model_config import ModelConfig, moe_layers
from recipes.model.families import Decoding, FamilyLayers
from recipes.model.gpt import GPTModel
from recipes.model.mlp import MLP
from recipes.model.rotary import SelfAttention
from recipes.model.router import Router


def qkv_linear(backend: BackendSpecProvider) -> type:
    """The module of the query, key and value projection, including the norm before it if they are fused."""
    if backend.fuse_layernorm_and_linear():
        fused: type = backend.column_parallel_layer_norm_linear()
        return fused
    return backend.column_parallel_linear()


def mlp_spec(backend: BackendSpecProvider) -> ModuleSpec:
    """megatron-core's MLP, in our class."""
    spec = get_mlp_module_spec_for_backend(backend=backend)
    spec.module = MLP
    return spec


def experts_spec(
    config: TransformerConfig, backend: BackendSpecProvider, router: type[Router] = Router
) -> ModuleSpec:
    """megatron-core's mixture of experts with our router; grouped matrix products with Transformer Engine."""
    spec = get_moe_module_spec_for_backend(
        backend=backend, num_experts=config.num_moe_experts, moe_grouped_gemm=config.moe_grouped_gemm
    )
    spec.submodules.router = router
    return spec


def layer_spec(
    config: TransformerConfig,
    backend: BackendSpecProvider,
    *,
    linear_qkv: type | None = None,
    experts: ModuleSpec | None = None,
) -> ModuleSpec:
    """One transformer layer: dense, or with ``experts`` in place of the MLP.

    Transformer Engine fuses each norm into the linear layer after it; without it the norms are separate
    modules, and the map gives their weights Transformer Engine's names in checkpoints. The norm before
    experts also feeds the router, so it is a separate module with a name of its own everywhere.
    """
    fused = backend.fuse_layernorm_and_linear()
    norm = backend.layer_norm()
    qk_norm = backend.layer_norm(for_qk=True) if config.qk_layernorm else IdentityOp
    canonical_names = {} if fused else {"input_layernorm.": "self_attention.linear_qkv.layer_norm_"}
    if not fused and experts is None:
        canonical_names["pre_mlp_layernorm."] = "mlp.linear_fc1.layer_norm_"
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=IdentityOp if fused else norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=linear_qkv or qkv_linear(backend),
                    core_attention=backend.core_attention(),
                    linear_proj=backend.row_parallel_linear(),
                    q_layernorm=qk_norm,
                    k_layernorm=qk_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=IdentityOp if fused and experts is None else norm,
            mlp=experts or mlp_spec(backend),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=canonical_names,
        ),
    )


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the final norm."""
    dense = layer_spec(config, backend)
    layers = [dense] * model.num_layers
    if any(moe_layers(model)):
        mixture = layer_spec(config, backend, experts=experts_spec(config, backend))
        layers = [mixture if is_moe else dense for is_moe in moe_layers(model)]
    return TransformerBlockSubmodules(
        layer_specs=stage_layers(config, layers), layer_norm=backend.layer_norm()
    )


def stage_layers(config: TransformerConfig, layers: list[ModuleSpec]) -> list[ModuleSpec]:
    """Those of the model's layers that this pipeline stage builds."""
    first = get_transformer_layer_offset(config)
    return layers[first : first + get_num_layers_to_build(config)]


LAYERS = FamilyLayers(block_spec=block_spec, gpt_model=GPTModel, decoding=Decoding())
