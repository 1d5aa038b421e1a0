"""Builds megatron-core's GPTModel from a described model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.activations import squared_relu
from megatron.core.models.gpt import GPTModel as MegatronGPTModel
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor
from torch.nn.functional import gelu, silu

from recipes.config.schema import ParallelConfig
from recipes.errors import UserError
from recipes.families.family import family_of, layer_windows
from recipes.families.model_config import (
    GATED_ACTIVATIONS,
    ModelConfig,
    expert_width,
    kv_channels,
    moe_layers,
    num_query_groups,
    padded_vocab_size,
)
from recipes.model.backend import have_transformer_engine, spec_provider
from recipes.model.families import layers_of
from recipes.model.gpt import GPTModel

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": silu,
    "geglu": partial(gelu, approximate="tanh"),
    "gelu": gelu,
    "squared_relu": squared_relu,
}


def transformer_config(model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype) -> TransformerConfig:
    """megatron-core's configuration of the described model under the layout.

    Raises:
        UserError: megatron-core refuses a value in ``model.megatron``, or would ignore it.
    """
    _refuse_what_needs_transformer_engine(model, parallel)
    if have_transformer_engine() and parallel.context_parallel_size > 1 and dtype == torch.float32:
        raise UserError(
            "trainer.precision=fp32: Transformer Engine's attention has no context parallelism in float32; "
            "set trainer.precision=bf16"
        )
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    fields: dict[str, Any] = {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": num_query_groups(model),
        "kv_channels": kv_channels(model),
        "normalization": model.normalization,
        "layernorm_epsilon": model.layernorm_epsilon,
        "qk_layernorm": model.qk_layernorm,
        "gated_linear_unit": model.activation in GATED_ACTIVATIONS,
        "activation_func": ACTIVATIONS[model.activation],
        "add_bias_linear": model.add_bias_linear,
        "init_method_std": model.init_method_std,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "num_layers_in_first_pipeline_stage": parallel.num_layers_in_first_pipeline_stage,
        "num_layers_in_last_pipeline_stage": parallel.num_layers_in_last_pipeline_stage,
        "context_parallel_size": parallel.context_parallel_size,
        "expert_model_parallel_size": parallel.expert_model_parallel_size,
        "expert_tensor_parallel_size": parallel.expert_tensor_parallel_size or tp,
        "sequence_parallel": parallel.sequence_parallel,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        # Our own initialisation follows, see recipes/model/init.py. perform_initialization stays on because
        # megatron-core marks parameters as tensor-parallel while it initialises them.
        "init_method": _leave_as_is,
        "output_layer_init_method": _leave_as_is,
        # The sum of token losses is divided by the global batch's tokens, whatever the layout.
        "calculate_per_token_loss": True,
        # These kernels come with Apex; Transformer Engine has its own.
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "persist_layer_norm": False,
        # megatron-core's fused GELU is the tanh form, ours is exact.
        "bias_activation_fusion": torch.cuda.is_available() and model.activation == "swiglu",
        "bias_dropout_fusion": torch.cuda.is_available() and not _has_grouped_biases(model),
        "apply_rope_fusion": have_transformer_engine(),
    }
    fields |= _window_fields(model, parallel) | _expert_fields(model) | _recompute_fields(parallel)
    fields |= family_of(model).megatron_fields
    fields |= model.megatron
    try:
        if "attention_backend" in fields:  # megatron-core compares with the enum's members.
            fields["attention_backend"] = AttnBackend[fields["attention_backend"]]
        config = TransformerConfig(**fields)
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"model.megatron={model.megatron}: megatron-core refuses it: {error}") from error
    if config.bias_dropout_fusion and _has_grouped_biases(model):
        raise UserError(
            "model.megatron.bias_dropout_fusion=True: Transformer Engine's experts with biases have no such "
            "fusion; remove it"
        )
    return config


def _refuse_what_needs_transformer_engine(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Without Transformer Engine megatron-core would accept these settings and ignore them.

    Raises:
        UserError: with the key and the value.
    """
    if have_transformer_engine():
        return
    for module in ("layernorm", "moe_act"):
        if module in parallel.recompute_modules:
            raise UserError(f"parallel.recompute_modules={module}: needs Transformer Engine; remove it")
    neutral = {"fp8": None, "fp4": None, "attention_backend": "auto"}
    for field, value in neutral.items():
        if model.megatron.get(field, value) != value:
            raise UserError(
                f"model.megatron.{field}={model.megatron[field]}: needs Transformer Engine; remove it"
            )


def _has_grouped_biases(model: ModelConfig) -> bool:
    """Whether Transformer Engine's grouped products compute experts with biases."""
    return have_transformer_engine() and model.num_moe_experts is not None and model.add_bias_linear


def _window_fields(model: ModelConfig, parallel: ParallelConfig) -> dict[str, Any]:
    windows = layer_windows(model)
    if model.window_size is None or not any(windows):
        return {}
    return {
        # megatron-core counts the tokens to the left of the query; our setting includes the query.
        "window_size": (model.window_size - 1, 0),
        "window_attn_skip_freq": [int(window is not None) for window in windows],
        # Transformer Engine's default is the ring, which does not support windows (Megatron-LM issue 2222).
        "cp_comm_type": "all_gather" if parallel.context_parallel_size > 1 else None,
    }


def _expert_fields(model: ModelConfig) -> dict[str, Any]:
    if model.num_moe_experts is None:
        return {}
    return {
        "num_moe_experts": model.num_moe_experts,
        "moe_ffn_hidden_size": expert_width(model),
        "moe_layer_freq": [int(is_moe) for is_moe in moe_layers(model)],
        "moe_router_topk": model.moe_router_topk,
        "moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size,
        "moe_router_score_function": model.moe_router_score_function,
        "moe_router_pre_softmax": model.moe_router_pre_softmax,
        "moe_router_topk_scaling_factor": model.moe_router_topk_scaling_factor,
        "moe_router_enable_expert_bias": model.moe_router_enable_expert_bias,
        "moe_router_bias_update_rate": model.moe_router_bias_update_rate,
        "moe_router_load_balancing_type": model.moe_router_load_balancing_type,
        "moe_aux_loss_coeff": model.moe_aux_loss_coeff,
        "moe_z_loss_coeff": model.moe_z_loss_coeff,
        "moe_expert_capacity_factor": model.moe_expert_capacity_factor,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": have_transformer_engine(),
    }


def _recompute_fields(parallel: ParallelConfig) -> dict[str, Any]:
    if parallel.recompute_granularity is None:
        return {}
    return {
        "recompute_granularity": parallel.recompute_granularity,
        "recompute_method": parallel.recompute_method,
        "recompute_num_layers": parallel.recompute_num_layers,
        "recompute_modules": list(parallel.recompute_modules) or ["core_attn"],
    }


def _leave_as_is(weight: Tensor) -> Tensor:
    return weight


def build_gpt_model(
    model: ModelConfig, parallel: ParallelConfig, dtype: torch.dtype, *, parallel_output: bool = True
) -> MegatronGPTModel:
    """This rank's part of the model, with weights not initialised.

    ``parallel_output`` keeps logits split over the vocabulary among tensor-parallel ranks (training).
    """
    config = transformer_config(model, parallel, dtype)
    family = layers_of(model)
    description = {} if family.gpt_model is MegatronGPTModel else {"description": model}
    gpt = family.gpt_model(
        config=config,
        transformer_layer_spec=family.block_spec(model, config, spec_provider()),
        vocab_size=padded_vocab_size(model),
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        parallel_output=parallel_output,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type=model.position_embedding_type,
        rotary_percent=model.rotary_percent,
        rotary_base=model.rotary_base,
        **description,
    )
    if gpt.pre_process and gpt.embedding.add_position_embedding:
        # megatron-core makes this table in fp32 whatever params_dtype says. Added to the words' embeddings it
        # would turn every layer's input into fp32, which norms with bf16 weights refuse.
        gpt.embedding.position_embeddings.to(dtype)
    _mark_experts(gpt)
    return gpt


def set_rotary_base(gpt: MegatronGPTModel, base: int) -> None:
    """Rotates positions with this base from now on.

    Raises:
        UserError: the family has a model class of its own, which cannot.
    """
    if gpt.rotary_base == base:
        return
    if not isinstance(gpt, GPTModel):
        raise UserError(f"phases: {type(gpt).__name__} cannot change its rotary_base; leave it out")
    gpt.set_rotary_base(base)


def _mark_experts(gpt: MegatronGPTModel) -> None:
    """Makes the experts' gradients be reduced over exactly the ranks that hold the same experts.

    megatron-core does so only when experts are distributed over ranks. In a tensor-parallel model, experts
    that every rank holds whole (expert_tensor_parallel_size 1) would miss the other ranks' tokens, and the
    biases of distributed experts would be summed over ranks that hold different experts. This also gives
    experts a separate optimizer under every layout, so checkpoints have a single form.
    """
    for module in gpt.modules():
        if isinstance(module, MoELayer):
            for parameter in module.experts.parameters():
                parameter.allreduce = False
                parameter.sequence_parallel = False
                # No other tensor-parallel rank holds the same part, so gradient norms must count it.
                parameter.tensor_model_parallel = True
