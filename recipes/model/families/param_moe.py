"""PARAM MoE (Project-PARAM): a GPT with learned positions whose even layers hold a mixture of experts.

LayerNorm before each sub-layer, dropout on the embedding and on each sub-layer's output, exact GELU. Queries,
keys and values have no bias; the output projection, the MLPs and the experts have one. The router is
recipes/model/noisy_router.py.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.backends import BackendSpecProvider
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

from recipes.families.model_config import ModelConfig, moe_layers
from recipes.model.families import Decoding, FamilyLayers
from recipes.model.families.llama import experts_spec, layer_spec, qkv_linear, stage_layers
from recipes.model.gpt import GPTModel
from recipes.model.initial_values import Constant, InitialValues, megatron_initial_values
from recipes.model.linear import RowParallelLinear
from recipes.model.noisy_router import noisy_router

ROUTER_WEIGHTS = ("router.weight", "router.noise_weight")


def without_bias(linear: type) -> type:
    """``linear`` without its bias, although the configuration gives every linear layer one."""

    class BiasFreeLinear(linear):
        def __init__(self, *sizes: int, bias: bool, **options: Any) -> None:
            super().__init__(*sizes, bias=False, **options)

    return BiasFreeLinear


class WholeOutputLinear(RowParallelLinear):
    """The last matrix of an expert that is not split, whose output is already complete.

    megatron-core adds an expert's bias to that output in place, which autograd forbids after the sum over
    tensor-parallel ranks, even over one rank. Experts with biases are never split (validate_parallel.py).
    """

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.explicit_expert_comm = True  # The caller would do the sum, and there is nothing to sum.


def block_spec(
    model: ModelConfig, config: TransformerConfig, backend: BackendSpecProvider
) -> TransformerBlockSubmodules:
    """This pipeline stage's layers and the final norm."""
    router = noisy_router(model.moe_importance_loss_coeff, model.moe_load_loss_coeff)
    linear_qkv = without_bias(qkv_linear(backend))
    dense = layer_spec(config, backend, linear_qkv=linear_qkv)
    experts = experts_spec(config, backend, router)
    if not config.moe_grouped_gemm:
        experts.submodules.experts.submodules.linear_fc2 = WholeOutputLinear
    mixture = layer_spec(config, backend, linear_qkv=linear_qkv, experts=experts)
    layers = [mixture if is_moe else dense for is_moe in moe_layers(model)]
    return TransformerBlockSubmodules(
        layer_specs=stage_layers(config, layers), layer_norm=backend.layer_norm()
    )


def initial_values(name: str, fan_in: int, model: ModelConfig) -> InitialValues:
    """As in other families, but both router matrices start at zero (arXiv 1701.06538, appendix A).

    No expert is then preferred at first, and the noise, with a deviation of ln 2, spreads the tokens.
    """
    if name.endswith(ROUTER_WEIGHTS):
        return Constant(0.0)
    return megatron_initial_values(name, fan_in, model)


LAYERS = FamilyLayers(
    block_spec=block_spec, gpt_model=GPTModel, initial_values=initial_values, decoding=Decoding()
)
