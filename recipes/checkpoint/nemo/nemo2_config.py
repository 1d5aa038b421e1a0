"""A ModelConfig to and from a NeMo 2 directory's model.yaml; nothing that it names is instantiated."""

from __future__ import annotations

import re
from typing import Any

from recipes.checkpoint.nemo.classic_config import FUSED_GELU, is_classic, known_value, window_settings
from recipes.checkpoint.nemo.nemo2_keys import HARMLESS, OF_THE_DOCUMENT
from recipes.checkpoint.stored.description import stored_megatron, typed_model
from recipes.config.stored_options import stored_options
from recipes.console import shown
from recipes.data.tokenizer.file_names import SENTENCEPIECE
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups, padded_vocab_size
from recipes.families.stated_keys import StatedKeys

FILE = "context/model.yaml"
# (activation_func, gated_linear_unit) -> activation. jit_fused or not, they compute the same.
ACTIVATIONS = {
    ("torch.nn.functional.silu", True): "swiglu",
    ("torch._C._nn.gelu", False): "gelu",
    ("torch.nn.functional.gelu", False): "gelu",
    ("megatron.core.activations.squared_relu", False): "squared_relu",
}
NORMALIZATIONS = {"RMSNorm": "RMSNorm", "LayerNorm": "LayerNorm"}
# Settings of NeMo 2's LlamaModel, the only class that is written.
LLAMA_MODEL = {
    "normalization": "RMSNorm",
    "activation": "swiglu",
    "add_bias_linear": False,
    "position_embedding_type": "rope",
}
# Fields that change what the model computes -> the values that the families here compute.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "layernorm_zero_centered_gamma": (False,),
    "rotary_interleaved": (False,),
    "seq_len_interpolation_factor": (None,),
    "apply_residual_connection_post_layernorm": (False,),
    "multi_latent_attention": (False,),
    "add_qkv_bias": (False,),
    "mtp_num_layers": (None, 0),
    "no_rope_freq": (None,),
    "window_attn_skip_freq": (None,),
    "softmax_type": ("vanilla",),
    "softmax_scale": (None,),
    "glu_linear_offset": (0, 0.0),
    "activation_func_clamp_value": (None,),
    "moe_router_num_groups": (None, 1),
    "moe_router_group_topk": (None, 1),
    "moe_router_topk_limited_devices": (None,),
    "moe_apply_probs_on_input": (False,),
    "heterogeneous_block_specs": (False,),
    "is_hybrid_model": (False,),
    "experimental_attention_variant": (None,),
}
# Classes of NeMo 2 that compute nothing beyond their fields, by the beginning of their names.
MODELS = (
    "GPTModel",
    "LlamaModel",
    "MistralModel",
    "MixtralModel",
    "NemotronModel",
    "Qwen2Model",
    "Qwen3Model",
)
CONFIGS = (
    "CodeLlamaConfig",
    "GPTConfig",
    "Llama2Config",
    "Llama3Config",
    "LlamaConfig",
    "MistralConfig",
    "MistralNeMo",
    "MixtralConfig",
    "Nemotron3Config",
    "Nemotron4Config",
    "NemotronConfig",
    "Qwen2Config",
    "Qwen25Config",
    "Qwen3Config",
)
LAYER_SPECS = (
    "default_layer_spec",
    "local_layer_spec",
    "transformer_engine_full_layer_spec",
    "transformer_engine_layer_spec",
)
# How a pattern of dense layers and layers with experts is often written: "[0]*1+[1]*20".
PATTERN = re.compile(r"\(?\[0\]\*(\d{1,6})\+\[1\]\*(\d{1,6})\)?")
# Copied as they are: ModelConfig has megatron-core's names, types and meanings.
COPIED = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "layernorm_epsilon",
    "qk_layernorm",
    "init_method_std",
    "hidden_dropout",
    "attention_dropout",
)
COPIED_OF_EXPERTS = (
    "num_moe_experts",
    "moe_ffn_hidden_size",
    "moe_router_topk",
    "moe_shared_expert_intermediate_size",
    "moe_router_score_function",
    "moe_router_pre_softmax",
    "moe_router_topk_scaling_factor",
    "moe_router_enable_expert_bias",
    "moe_router_bias_update_rate",
    "moe_router_load_balancing_type",
    "moe_aux_loss_coeff",
    "moe_z_loss_coeff",
    "moe_expert_capacity_factor",
)


def from_nemo2_config(
    document: dict[str, Any], *, tokenizer_vocab_size: int, stored_rows: int
) -> ModelConfig:
    """``document`` is model.yaml as plain data; ``stored_rows`` the height of the stored embedding table.

    Raises:
        UserError: a field is missing, or has a value that no family here computes.
    """
    try:
        return _translated(document, tokenizer_vocab_size, stored_rows)
    except UserError as error:
        raise UserError(str(error).replace("model_config.yaml", FILE)) from None


def _translated(document: dict[str, Any], pieces: int, stored_rows: int) -> ModelConfig:
    section = document.get("config")
    if not isinstance(section, dict):
        raise UserError(f"{FILE}: config is not a mapping")
    config = StatedKeys(section)
    _refuse_other_models(document, config)
    values = {key: config[key] for key in COPIED if key in config}
    if config.get("num_moe_experts") is not None:
        values |= {key: config[key] for key in COPIED_OF_EXPERTS if config.get(key) is not None}
        values |= _expert_layers(config)
    else:  # Nothing asks for the other settings of experts.
        for key in config:
            if str(key).startswith("moe_"):
                config.get(key)
    # A field that is not written has its class's default. NeMo 2 writes all of TransformerConfig's.
    values |= {
        "vocab_size": pieces,
        "make_vocab_size_divisible_by": stored_rows,
        "max_position_embeddings": _first(config, "max_position_embeddings", "seq_length"),
        "normalization": known_value(
            "normalization", config.get("normalization", "LayerNorm"), NORMALIZATIONS
        ),
        "activation": _activation(config),
        "add_bias_linear": config.get("add_bias_linear", True),
        "position_embedding_type": _positions(config.get("position_embedding_type", "learned_absolute")),
        "rotary_base": config.get("rotary_base", 10000),
        "rotary_percent": config.get("rotary_percent", 1.0),
        "share_embeddings_and_output_weights": config.get("share_embeddings_and_output_weights", True),
        "megatron": _megatron(config),
        **window_settings(FILE, config.get("window_size")),
    }
    config.refuse_unread(f"{FILE}: config", HARMLESS | SUPPORTED_VALUES.keys())
    return typed_model(**values)


def _refuse_other_models(document: dict[str, Any], config: StatedKeys) -> None:
    """
    Raises:
        UserError: a class, a function or a value that makes another model of it than our families compute.
    """
    StatedKeys(document).refuse_unread(FILE, OF_THE_DOCUMENT)
    _known_class("_target_", document.get("_target_"), MODELS)
    _known_class("config._target_", config.get("_target_"), CONFIGS)
    spec = config.get("transformer_layer_spec")
    name = spec.get("_target_") if isinstance(spec, dict) else spec
    if name is not None and _last_part(name) not in LAYER_SPECS:
        raise UserError(
            f"{FILE}: transformer_layer_spec={shown(name)} is not supported "
            f"(supported: {', '.join(LAYER_SPECS)})"
        )
    for key, supported in SUPPORTED_VALUES.items():
        if key in config and config[key] not in supported:
            raise UserError(f"{FILE}: {key}={shown(config[key])} is not supported (supported: {supported})")


def _known_class(key: str, target: Any, known: tuple[str, ...]) -> None:
    """Classes can compute more than their fields say: Llama 3.1's scales RoPE, Gemma's its embeddings."""
    if target is not None and not _last_part(target).startswith(known):
        raise UserError(
            f"{FILE}: {key}={shown(target)} may compute more than its fields say; if it does not, set it to "
            f"one of the classes that are known here ({', '.join(known)})"
        )


def _last_part(target: Any) -> str:
    return str(target).rsplit(".", 1)[-1]


def _megatron(config: StatedKeys) -> dict[str, Any]:
    """Options of megatron-core's that change arithmetic and are no settings of ours."""
    options: dict[str, Any] = {}
    gelu = _activation(config) == "gelu" and config.get("add_bias_linear", True) is True
    if gelu and config.get(FUSED_GELU, False) is True:
        options[FUSED_GELU] = True
    if config.get("moe_expert_capacity_factor") is not None:
        dropping = ("moe_token_drop_policy", "moe_pad_expert_input_to_capacity")
        options |= {key: config[key] for key in dropping if key in config}
    return stored_megatron(options, "config")


def _first(config: StatedKeys, *keys: str) -> Any:
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise UserError(f"{FILE}: {keys[-1]} is missing")


def _positions(value: Any) -> str:
    return known_value(
        "position_embedding_type", value, {name: name for name in ("rope", "learned_absolute")}
    )


def _activation(config: StatedKeys) -> str:
    function = config.get("activation_func")
    name = function.get("_target_") if isinstance(function, dict) else function
    gated = config.get("gated_linear_unit", False)
    known = ACTIVATIONS.get((name, gated)) if isinstance(name, str) and isinstance(gated, bool) else None
    if known is None:
        raise UserError(
            f"{FILE}: activation_func={shown(name)} with gated_linear_unit={shown(gated)} is not supported"
        )
    return known


def _expert_layers(config: StatedKeys) -> dict[str, Any]:
    """Which layers have experts: megatron-core's pattern in our two settings."""
    layers, pattern = config.get("num_layers"), config.get("moe_layer_freq", 1)
    if type(layers) is not int or not 0 < layers < 100_000:
        raise UserError(f"{FILE}: num_layers={shown(layers)} is not a number of layers")
    if isinstance(pattern, str) and (match := PATTERN.fullmatch(pattern.replace(" ", ""))):
        pattern = [0] * min(int(match[1]), layers) + [1] * min(int(match[2]), layers)
    if isinstance(pattern, list):
        if len(pattern) == layers and 1 in pattern:
            dense = pattern.index(1)
            if pattern == [0] * dense + [1] * (layers - dense):
                return {"moe_layer_freq": 1, "first_k_dense_replace": dense}
    elif type(pattern) is int and pattern > 0:
        return {"moe_layer_freq": pattern}
    raise UserError(f"{FILE}: moe_layer_freq={shown(pattern)} is not a supported pattern")


def to_nemo2_config(
    model: ModelConfig, *, tokenizer_file: str, bf16: bool, tokenizer_library: str = SENTENCEPIECE
) -> dict[str, Any]:
    """``context/model.yaml`` of NeMo 2's LlamaModel; fields that are left out have that class's defaults.

    Raises:
        UserError: that class computes another architecture.
    """
    for key, value in LLAMA_MODEL.items():
        if getattr(model, key) != value:
            other = getattr(model, key)
            raise UserError(f"--to nemo2: model.{key}={other}: NeMo 2's LlamaModel has {value}; use nemo")
    if options := stored_options(model.megatron):
        raise UserError(f"--to nemo2: model.megatron.{next(iter(options))} has no place there; use nemo")
    if not is_classic(model):
        raise UserError("--to nemo2: NeMo 2's LlamaModel computes another architecture; use hf or nemo")
    return {
        "_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel",
        "config": {
            "_target_": "nemo.collections.llm.gpt.model.llama.LlamaConfig",
            **{key: getattr(model, key) for key in COPIED if key != "qk_layernorm"},
            "num_query_groups": num_query_groups(model),
            "kv_channels": kv_channels(model),
            "normalization": model.normalization,
            "gated_linear_unit": True,
            "activation_func": {"_call_": False, "_target_": "torch.nn.functional.silu"},
            "add_bias_linear": model.add_bias_linear,
            "seq_length": model.max_position_embeddings,
            "rotary_base": model.rotary_base,
            "rotary_percent": model.rotary_percent,
            "position_embedding_type": model.position_embedding_type,
            "share_embeddings_and_output_weights": model.share_embeddings_and_output_weights,
            "make_vocab_size_divisible_by": model.make_vocab_size_divisible_by,
            "vocab_size": padded_vocab_size(model),
            "bf16": bf16,
        },
        "tokenizer": _tokenizer_section(tokenizer_library, tokenizer_file),
    }


def _tokenizer_section(library: str, name: str) -> dict[str, Any]:
    package = "nemo.collections.common.tokenizers"
    if library != SENTENCEPIECE:
        target = f"{package}.huggingface.auto_tokenizer.AutoTokenizer"
        return {"_target_": target, "pretrained_model_name": name, "use_fast": True}
    return {
        "_target_": f"{package}.sentencepiece_tokenizer.SentencePieceTokenizer",
        "model_path": name,
        "legacy": False,
        "chat_template": None,
        "special_tokens": None,
    }
