"""From our model description to a Hugging Face config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.checkpoint.huggingface.tables import is_mixtral
from recipes.config.schema import ModelConfig
from recipes.errors import UserError
from recipes.model.accounting import expert_width, kv_channels, num_query_groups
from recipes.model.layers import layer_windows, moe_layers, value_embedding_layers


@dataclass(frozen=True)
class Architecture:
    """A class that computes a described model."""

    name: str
    model_type: str
    remote: bool = False
    """Not transformers' own: its code leaves with the weights (remote_code/)."""


LLAMA = Architecture("LlamaForCausalLM", "llama")
QWEN3 = Architecture("Qwen3ForCausalLM", "qwen3")
QWEN3_MOE = Architecture("Qwen3MoeForCausalLM", "qwen3_moe")
MIXTRAL = Architecture("MixtralForCausalLM", "mixtral")
GLM4_MOE = Architecture("Glm4MoeForCausalLM", "glm4_moe")
GEMMA3 = Architecture("Gemma3ForCausalLM", "gemma3_text")
NANO_HINDI = Architecture("NanoHindiForCausalLM", "nano_hindi", remote=True)
PARAM_MOE = Architecture("ParamMoeForCausalLM", "param_moe", remote=True)


def architecture_of(model: ModelConfig) -> Architecture:
    """The class that computes exactly this model.

    Raises:
        UserError: there is none; the message names the setting that none of them has.
    """
    _refuse_unless(not model.megatron, model, "megatron")
    _refuse_unless(model.moe_expert_capacity_factor is None, model, "moe_expert_capacity_factor")
    if model.family == "nano_hindi":
        return NANO_HINDI
    if model.family == "param_moe":
        return PARAM_MOE
    if model.family == "gemma3":
        _check_head_count(model)
        return GEMMA3
    _refuse_unless(model.position_embedding_type == "rope", model, "position_embedding_type")
    _refuse_unless(model.normalization == "RMSNorm", model, "normalization")
    _refuse_unless(model.activation == "swiglu", model, "activation")
    _refuse_unless(not model.add_bias_linear, model, "add_bias_linear")
    _refuse_unless(not any(layer_windows(model)), model, "window_size")
    if any(moe_layers(model)) and model.moe_router_score_function == "sigmoid":
        return _glm4_moe(model)
    _refuse_unless(model.rotary_percent == 1.0, model, "rotary_percent")
    if not any(moe_layers(model)):
        if model.qk_layernorm:
            return QWEN3
        _check_head_count(model)
        return LLAMA
    _refuse_unless(not model.moe_router_enable_expert_bias, model, "moe_router_enable_expert_bias")
    _refuse_unless(model.moe_router_topk_scaling_factor is None, model, "moe_router_topk_scaling_factor")
    if is_mixtral(model):
        return MIXTRAL
    shared = "moe_shared_expert_intermediate_size"
    _refuse_unless(model.moe_shared_expert_intermediate_size is None, model, shared)
    _refuse_unless(model.qk_layernorm, model, "qk_layernorm")
    return QWEN3_MOE


def _glm4_moe(model: ModelConfig) -> Architecture:
    """It has always an expert bias and shared experts, and experts on every layer behind its dense ones."""
    _refuse_unless(model.moe_router_enable_expert_bias, model, "moe_router_enable_expert_bias")
    _refuse_unless(model.moe_layer_freq == 1, model, "moe_layer_freq")
    shared, width = model.moe_shared_expert_intermediate_size, expert_width(model)
    _refuse_unless(shared is not None, model, "moe_shared_expert_intermediate_size")
    if shared and shared % width:
        raise UserError(
            f"model.moe_shared_expert_intermediate_size={shared}: transformers counts shared experts of the "
            f"routed experts' width, {width}, which does not divide it"
        )
    return GLM4_MOE


def _check_head_count(model: ModelConfig) -> None:
    if model.hidden_size % model.num_attention_heads:
        raise UserError(
            f"model.num_attention_heads={model.num_attention_heads}: transformers' class refuses a "
            f"hidden_size ({model.hidden_size}) that is no multiple of it"
        )


def _refuse_unless(fits: bool, model: ModelConfig, key: str) -> None:
    if not fits:
        raise UserError(f"model.{key}={getattr(model, key)}: no class in transformers computes that")


def to_hf_config(
    model: ModelConfig, *, dtype: str, bos_id: int | None, eos_id: int | None, pad_id: int | None
) -> dict[str, Any]:
    """config.json of the class that :func:`architecture_of` names.

    ``dtype`` is torch's name of most weights' type, ``bfloat16``; the ids are those of
    :func:`recipes.checkpoint.huggingface.tokenizer.special_ids`.

    Raises:
        UserError: no class computes the model.
    """
    architecture = architecture_of(model)
    config: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": num_query_groups(model),
        "head_dim": kv_channels(model),
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # What readers before transformers 4.56 look for.
        "use_cache": not architecture.remote,
    }
    if not architecture.remote:
        config |= {
            "rms_norm_eps": model.layernorm_epsilon,
            "initializer_range": model.init_method_std,
            "attention_bias": False,
            "attention_dropout": model.attention_dropout,
        }
    return config | KEYS[architecture](model)


def to_generation_config(
    *, bos_id: int | None, eos_id: int | None, pad_id: int | None, use_cache: bool = True
) -> dict[str, Any]:
    """generation_config.json. Without a padding token, batches are padded with the last one."""
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    ids["pad_token_id"] = eos_id if pad_id is None else pad_id
    return {key: value for key, value in ids.items() if value is not None} | {"use_cache": use_cache}


def _llama(model: ModelConfig) -> dict[str, Any]:
    # The base twice: readers before transformers 5 look for rope_theta, later ones for rope_parameters.
    rope = {"rope_type": "default", "rope_theta": float(model.rotary_base)}
    return {"hidden_act": "silu", "rope_theta": float(model.rotary_base), "rope_parameters": rope}


def _only_llama(model: ModelConfig) -> dict[str, Any]:
    return _llama(model) | {"mlp_bias": False}


def _mixtral(model: ModelConfig) -> dict[str, Any]:
    return _llama(model) | {
        "intermediate_size": expert_width(model),
        "num_local_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "sliding_window": None,
    }


def _qwen3_moe(model: ModelConfig) -> dict[str, Any]:
    return _llama(model) | {
        "num_experts": model.num_moe_experts,
        "moe_intermediate_size": expert_width(model),
        "num_experts_per_tok": model.moe_router_topk,
        "norm_topk_prob": not model.moe_router_pre_softmax,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer, is_moe in enumerate(moe_layers(model)) if not is_moe],
    }


def _glm4_moe_keys(model: ModelConfig) -> dict[str, Any]:
    keys = _llama(model)
    keys["rope_parameters"]["partial_rotary_factor"] = model.rotary_percent
    return keys | {
        "partial_rotary_factor": model.rotary_percent,
        "n_routed_experts": model.num_moe_experts,
        "moe_intermediate_size": expert_width(model),
        "num_experts_per_tok": model.moe_router_topk,
        "n_shared_experts": (model.moe_shared_expert_intermediate_size or 0) // expert_width(model),
        "routed_scaling_factor": model.moe_router_topk_scaling_factor or 1.0,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": model.first_k_dense_replace,
        # megatron-core leaves the score of a single expert as it is.
        "norm_topk_prob": model.moe_router_topk > 1,
        "use_qk_norm": model.qk_layernorm,
        "num_nextn_predict_layers": 0,
    }


def _gemma3(model: ModelConfig) -> dict[str, Any]:
    windows = layer_windows(model)
    base = float(model.rotary_base)
    local = float(model.rotary_base_local or model.rotary_base)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": kv_channels(model),
        "sliding_window": model.window_size or model.max_position_embeddings,
        "layer_types": ["full_attention" if window is None else "sliding_attention" for window in windows],
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "rope_theta": base,
        "rope_local_base_freq": local,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": base},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _nano_hindi(model: ModelConfig) -> dict[str, Any]:
    values = value_embedding_layers(model)
    return _auto_map("nano_hindi", "NanoHindi") | {
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_theta": float(model.rotary_base),
        "layer_windows": layer_windows(model),
        "value_embedding_layers": [layer for layer, has_values in enumerate(values) if has_values],
        "logit_soft_cap": model.final_logit_softcapping,
    }


def _param_moe(model: ModelConfig) -> dict[str, Any]:
    return _auto_map("param_moe", "ParamMoe") | {
        "layer_norm_eps": model.layernorm_epsilon,
        "num_experts": model.num_moe_experts,
        "num_experts_per_tok": model.moe_router_topk,
        "moe_intermediate_size": expert_width(model),
        "moe_layers": [layer for layer, is_moe in enumerate(moe_layers(model)) if is_moe],
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.init_method_std,
    }


def _auto_map(name: str, prefix: str) -> dict[str, Any]:
    classes = {
        "AutoConfig": f"configuration_{name}.{prefix}Config",
        "AutoModelForCausalLM": f"modeling_{name}.{prefix}ForCausalLM",
    }
    return {"auto_map": classes}


KEYS = {
    LLAMA: _only_llama,
    QWEN3: _llama,
    QWEN3_MOE: _qwen3_moe,
    MIXTRAL: _mixtral,
    GLM4_MOE: _glm4_moe_keys,
    GEMMA3: _gemma3,
    NANO_HINDI: _nano_hindi,
    PARAM_MOE: _param_moe,
}
