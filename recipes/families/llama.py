"""The Llama line (Param-1, Lumen, Param-2): pre-norm, rotary positions, grouped-query attention, gated MLP.

With ``qk_layernorm`` it is like Qwen3; with ``num_moe_experts`` layers hold a mixture of experts, like
Mixtral's with softmax scores and like DeepSeek-V3's with sigmoid scores and an expert bias. The table has all
tensors of every model that can be described, even of those that no class in transformers computes (biases, a
plain GELU), since stored models are compared with it. Their Hugging Face names are then made up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recipes.checks import refuse
from recipes.errors import UserError
from recipes.families import param2moe
from recipes.families.blocks import (
    Table,
    attention,
    final_norm,
    mlp,
    norm,
    qk_norms,
    qkv_bias,
    routed_experts,
    router,
    shared_experts,
    whole_model,
)
from recipes.families.family import Architecture, Family, Layout
from recipes.families.hugging_face import (
    MOST_EXPERTS,
    check_head_count,
    class_keys,
    expert_layers,
    experts,
    layer_count,
    refuse_unless,
    rms_norm,
    rms_norm_keys,
    rotary,
    rotary_keys,
    stated_once,
)
from recipes.families.model_config import ModelConfig, expert_width, moe_layers, window_pattern
from recipes.families.settings import EXPERTS, NORMAL_INIT, ROTARY, ROUTER, WINDOWS
from recipes.families.tensors import ROUTERS, TensorSpec, same
from recipes.families.values import Values

LLAMA = Architecture("LlamaForCausalLM", "llama")
MISTRAL = Architecture("MistralForCausalLM", "mistral")
QWEN3 = Architecture("Qwen3ForCausalLM", "qwen3")
QWEN3_MOE = Architecture("Qwen3MoeForCausalLM", "qwen3_moe")
MIXTRAL = Architecture("MixtralForCausalLM", "mixtral")
GLM4_MOE = Architecture("Glm4MoeForCausalLM", "glm4_moe")


def check(model: ModelConfig) -> None:
    """
    Raises:
        UserError: experts with biases.
    """
    if model.num_moe_experts is not None and model.add_bias_linear:
        refuse("model.add_bias_linear", True, "experts of the llama family have no biases; remove it")


# The table


def tensors(model: ModelConfig) -> Table:
    """Every tensor, in layer order."""
    return whole_model(model, _layer, final_norm(model))


def _layer(model: ModelConfig, layer: int) -> Table:
    table = norm("self_attention.linear_qkv.layer_norm_", "input_layernorm.", model) + attention(model)
    if model.add_bias_linear:
        table.append(qkv_bias(model))
    if model.qk_layernorm:
        table += qk_norms(model)
    if not moe_layers(model)[layer]:
        table += norm("mlp.linear_fc1.layer_norm_", "post_attention_layernorm.", model)
        return table + mlp(model)
    return table + norm("pre_mlp_layernorm.", "post_attention_layernorm.", model) + _experts(model)


def _experts(model: ModelConfig) -> Table:
    """A mixture of experts, with the names of Qwen3-MoE and GLM-4-MoE or with Mixtral's."""
    mixtral = is_mixtral(model)
    block = "block_sparse_moe" if mixtral else "mlp"
    table = [router(model, "mlp.router.weight", f"{block}.gate.weight")]
    if model.moe_router_enable_expert_bias:
        shape = (model.num_moe_experts or 0,)
        bias = same("mlp.router.expert_bias", "mlp.gate.e_score_correction_bias", shape, ROUTERS, wide=True)
        table.append(replace(bias, trained=False))
    routed = routed_experts(model, block + ".experts.{expert}.")
    table += [_mixtral_names(spec) for spec in routed] if mixtral else routed
    if model.moe_shared_expert_intermediate_size is not None:
        table += shared_experts(model, model.moe_shared_expert_intermediate_size)
    return table


def _mixtral_names(spec: TensorSpec) -> TensorSpec:
    names = spec.theirs
    for name, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        names = tuple(text.replace(name, theirs) for text in names)
    return replace(spec, theirs=names)


def is_mixtral(model: ModelConfig) -> bool:
    """A mixture of experts without QK-norm, with softmax over the chosen experts: transformers' Mixtral."""
    return (
        model.num_moe_experts is not None
        and not model.qk_layernorm
        and model.moe_router_score_function == "softmax"
        and model.moe_shared_expert_intermediate_size is None
        and all(moe_layers(model))
        and not model.moe_router_pre_softmax
    )


# Hugging Face


def architecture(model: ModelConfig) -> Architecture:
    """The class in transformers that computes exactly this model.

    Raises:
        UserError: there is none; the message names the setting that no class supports.
    """
    refuse_unless(model.position_embedding_type == "rope", model, "position_embedding_type")
    refuse_unless(model.normalization == "RMSNorm", model, "normalization")
    refuse_unless(model.activation == "swiglu", model, "activation")
    refuse_unless(not model.add_bias_linear, model, "add_bias_linear")
    if any(window_pattern(model)):
        _check_mistral(model)
        return MISTRAL
    if any(moe_layers(model)) and model.moe_router_score_function == "sigmoid":
        _check_glm4_moe(model)
        return GLM4_MOE
    refuse_unless(model.rotary_percent == 1.0, model, "rotary_percent")
    if not any(moe_layers(model)):
        if model.qk_layernorm:
            return QWEN3
        check_head_count(model)
        return LLAMA
    refuse_unless(not model.moe_router_enable_expert_bias, model, "moe_router_enable_expert_bias")
    refuse_unless(model.moe_router_topk_scaling_factor is None, model, "moe_router_topk_scaling_factor")
    if is_mixtral(model):
        return MIXTRAL
    shared = "moe_shared_expert_intermediate_size"
    refuse_unless(model.moe_shared_expert_intermediate_size is None, model, shared)
    refuse_unless(model.qk_layernorm, model, "qk_layernorm")
    return QWEN3_MOE


def _check_mistral(model: ModelConfig) -> None:
    """Mistral is Llama with one window for all layers."""
    refuse_unless(all(window_pattern(model)), model, "window_size")
    refuse_unless(model.num_moe_experts is None, model, "window_size")
    refuse_unless(not model.qk_layernorm, model, "window_size")
    refuse_unless(model.rotary_percent == 1.0, model, "rotary_percent")


def _check_glm4_moe(model: ModelConfig) -> None:
    """GLM-4-MoE always has an expert bias, shared experts, and experts on every layer after dense ones."""
    refuse_unless(model.moe_router_enable_expert_bias, model, "moe_router_enable_expert_bias")
    refuse_unless(model.moe_layer_freq == 1, model, "moe_layer_freq")
    shared, width = model.moe_shared_expert_intermediate_size, expert_width(model)
    refuse_unless(shared is not None, model, "moe_shared_expert_intermediate_size")
    if shared and shared % width:
        raise UserError(
            f"model.moe_shared_expert_intermediate_size={shared}: transformers counts shared experts of the "
            f"routed experts' width, {width}, which does not divide it"
        )


def to_hugging_face(model: ModelConfig) -> dict[str, Any]:
    """Keys of config.json besides those that every class has."""
    found = architecture(model)
    keys = class_keys(model) | rms_norm_keys(model) | {"hidden_act": "silu"} | rotary_keys(model)
    if found == LLAMA:
        keys["mlp_bias"] = False
    elif found == MISTRAL:
        keys["sliding_window"] = model.window_size
    elif found == MIXTRAL:
        keys |= {
            "intermediate_size": expert_width(model),
            "num_local_experts": model.num_moe_experts,
            "num_experts_per_tok": model.moe_router_topk,
            "sliding_window": None,
        }
    elif found == QWEN3_MOE:
        keys |= {
            "num_experts": model.num_moe_experts,
            "moe_intermediate_size": expert_width(model),
            "num_experts_per_tok": model.moe_router_topk,
            "norm_topk_prob": not model.moe_router_pre_softmax,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [layer for layer, is_moe in enumerate(moe_layers(model)) if not is_moe],
        }
    elif found == GLM4_MOE:
        keys |= _glm4_moe_keys(model, keys["rope_parameters"])
    return keys


def _glm4_moe_keys(model: ModelConfig, rope: dict[str, Any]) -> dict[str, Any]:
    return {
        "rope_parameters": rope | {"partial_rotary_factor": model.rotary_percent},
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


def _from_llama(values: Values) -> dict[str, Any]:
    values.choice("hidden_act", ("silu", "swish"), "silu")
    tied = values.flag("tie_word_embeddings", False)
    return {"share_embeddings_and_output_weights": tied, **rms_norm(values), **rotary(values)}


def _from_mistral(values: Values) -> dict[str, Any]:
    fields = _from_llama(values)
    if "sliding_window" in values.content and not values.has("sliding_window"):
        return fields
    # transformers' default if the key is absent.
    return {**fields, "window_size": values.count("sliding_window", 4096), "window_pattern": "S"}


def _from_qwen3(values: Values) -> dict[str, Any]:
    # Looked up so that they count as read: they have an effect only with use_sliding_window, which is checked
    # for all families.
    for key in ("sliding_window", "max_window_layers"):
        values.content.get(key)
    kinds = values.content.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * layer_count(values):
        values.refuse("layer_types", "no family here computes that")
    return {**_from_llama(values), "qk_layernorm": True}


def _from_mixtral(values: Values) -> dict[str, Any]:
    if values.has("sliding_window"):
        values.refuse("sliding_window", "no family here computes that")
    return {
        **_from_llama(values),
        **rms_norm(values, 1e-5),
        **rotary(values, 1e6),
        **experts(values, "num_local_experts"),
    }


def _from_qwen3_moe(values: Values) -> dict[str, Any]:
    layers = layer_count(values)
    dense = values.numbers_of_layers("mlp_only_layers", layers)
    mixtures = [layer for layer in range(layers) if layer not in set(dense)]
    return {
        **_from_qwen3(values),
        **experts(values, "num_experts" if values.has("num_experts") else "num_local_experts"),
        **expert_layers(values, "mlp_only_layers", mixtures, layers),
        "moe_ffn_hidden_size": values.count("moe_intermediate_size"),
        "moe_router_pre_softmax": not values.flag("norm_topk_prob", False),
    }


def _from_glm4_moe(values: Values) -> dict[str, Any]:
    layers = layer_count(values)
    routed = experts(values, "n_routed_experts")
    normed = values.flag("norm_topk_prob", True)
    if normed != (routed["moe_router_topk"] > 1):
        values.refuse("norm_topk_prob", "weights are normed for several experts, and not for a single one")
    width = values.count("moe_intermediate_size")
    shared = values.count("n_shared_experts", 1, most=MOST_EXPERTS) * width
    # Looked up so that it counts as read: stored layers that predict further tokens show up as extra tensors.
    values.content.get("num_nextn_predict_layers")
    source = stated_once("partial_rotary_factor", values, values.mapping("rope_parameters"))
    rotary_percent = source.number("partial_rotary_factor", 0.5)
    if not 0 < rotary_percent <= 1:
        source.refuse("partial_rotary_factor", "must be in (0, 1]")
    scaling = values.number("routed_scaling_factor", 1.0)
    return {
        **_from_llama(values),
        **rms_norm(values, 1e-5),
        **routed,
        "qk_layernorm": values.flag("use_qk_norm", False),
        "rotary_percent": rotary_percent,
        "moe_ffn_hidden_size": width,
        "first_k_dense_replace": values.count("first_k_dense_replace", 1, least=0, most=layers),
        "moe_shared_expert_intermediate_size": shared,
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_topk_scaling_factor": scaling if scaling != 1.0 else None,
    }


FAMILY = Family(
    name="llama",
    layers="recipes.model.families.llama",
    tensors=tensors,
    settings=ROTARY | WINDOWS | NORMAL_INIT | EXPERTS | ROUTER,
    choices={"activation": ("swiglu", "gelu")},
    check=check,
    classic_nemo=True,
    architecture=architecture,
    to_hugging_face=to_hugging_face,
    from_hugging_face={
        "llama": _from_llama,
        "mistral": _from_mistral,
        "parambharatgen": _from_llama,  # Param-1's published remote-code class, whose weights are Llama's.
        "qwen3": _from_qwen3,
        "qwen3_moe": _from_qwen3_moe,
        "mixtral": _from_mixtral,
        "glm4_moe": _from_glm4_moe,
        param2moe.NAME: param2moe.from_hugging_face,
    },
    layouts={
        param2moe.NAME: Layout(
            param2moe.architecture, lambda model: param2moe.renamed(tensors(model)), param2moe.to_hugging_face
        )
    },
)
