"""A ModelConfig to and from classic NeMo's model_config.yaml."""

from __future__ import annotations

import dataclasses
from typing import Any

from recipes.checkpoint.stored.description import (
    described_model,
    description_of,
    stored_megatron,
    typed_model,
)
from recipes.config.stored_options import stored_options
from recipes.console import shown
from recipes.data.samples.document_start import DocumentStart
from recipes.data.tokenizer.file_names import HUGGING_FACE, SENTENCEPIECE
from recipes.errors import UserError
from recipes.families.family import family_of
from recipes.families.model_config import ModelConfig, kv_channels, num_query_groups, padded_vocab_size
from recipes.families.settings import COMMON_SETTINGS, NORMAL_INIT, ROTARY

FORMAT_VERSION = 1
CLASSIC_TARGET = "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel"
CLASSIC_VERSION = "2.0.0"
OUR_TARGET = "recipes.training.module.ParamGPT"
# What classic NeMo's configuration can express, and what only decides the initial weights.
CLASSIC_KEYS = COMMON_SETTINGS | ROTARY | NORMAL_INIT

NORMALIZATIONS = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
ACTIVATIONS = {"swiglu": "swiglu", "fast-swiglu": "swiglu", "gelu": "gelu"}
# Keys that change what the model computes -> the values that families here compute.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "transformer_block_type": ("pre_ln",),
    "position_embedding_type": ("rope", "learned_absolute"),
    "normalize_attention_scores": (True,),
    "seq_len_interpolation_factor": (None,),
    "layernorm_zero_centered_gamma": (False,),
    "num_moe_experts": (None, 0, 1),
    "headscale": (False,),
    "scale_positional_embedding": (False,),
    "openai_gelu": (False,),
    "apply_query_key_layer_scaling": (False, True),
    "rotary_interleaved": (False,),
}


def is_classic(model: ModelConfig) -> bool:
    """Whether classic NeMo's MegatronGPTModel computes this architecture from its own keys.

    It reads none of ``model.megatron``, so nothing there may change what is computed.
    """
    return (
        family_of(model).classic_nemo
        and not stored_options(model.megatron)
        and all(
            getattr(model, setting.name) == setting.default
            for setting in dataclasses.fields(ModelConfig)
            if setting.name not in CLASSIC_KEYS - {"qk_layernorm"}
        )
    )


def to_nemo_config(
    model: ModelConfig,
    *,
    tokenizer_file: str,
    tokenizer_library: str = SENTENCEPIECE,
    seq_length: int,
    micro_batch_size: int,
    global_batch_size: int,
    precision: str | int,
    seed: int,
    document_start: DocumentStart,
) -> dict[str, Any]:
    """The ``model:`` section as classic NeMo writes it for the Llama line.

    What classic NeMo cannot compute has this project's target instead, and its whole description under
    ``recipes.model``, so that NeMo refuses the file rather than run another model.

    ``override_vocab_size`` makes NeMo build the padded table that is stored, whatever its tensor-parallel
    size. The ``recipes`` key is this project's and ignored there; its ``document_start`` (bos, eos) is the
    token that stood before every document in training, so that prompts can be given the same start.
    """
    classic = is_classic(model)
    return {
        "mcore_gpt": True,
        "micro_batch_size": micro_batch_size,
        "global_batch_size": global_batch_size,
        "rampup_batch_size": None,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "virtual_pipeline_model_parallel_size": None,
        "expert_model_parallel_size": 1,
        "sequence_parallel": False,
        "encoder_seq_length": seq_length,
        "max_position_embeddings": model.max_position_embeddings,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": num_query_groups(model),
        "kv_channels": kv_channels(model),
        "init_method_std": model.init_method_std,
        "use_scaled_init_method": model.use_scaled_init_method,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "ffn_dropout": 0.0,
        "apply_query_key_layer_scaling": False,
        "normalization": model.normalization.lower(),
        "layernorm_epsilon": model.layernorm_epsilon,
        "layernorm_zero_centered_gamma": False,
        "make_vocab_size_divisible_by": model.make_vocab_size_divisible_by,
        "override_vocab_size": padded_vocab_size(model),
        "pre_process": True,
        "post_process": True,
        "bias": model.add_bias_linear,
        "activation": "fast-swiglu" if model.activation == "swiglu" else model.activation,
        "transformer_block_type": "pre_ln",
        "normalize_attention_scores": True,
        "position_embedding_type": model.position_embedding_type,
        "rotary_percentage": model.rotary_percent,
        "rotary_base": model.rotary_base,
        "attention_type": "multihead",
        "share_embeddings_and_output_weights": model.share_embeddings_and_output_weights,
        "seq_len_interpolation_factor": None,
        "tokenizer": _tokenizer_section(tokenizer_library, tokenizer_file),
        "transformer_engine": True,
        "megatron_amp_O2": precision == "bf16",
        "dist_ckpt_format": "torch_dist",
        "seed": seed,
        "precision": precision,
        "recipes": {
            "family": model.family,
            "format_version": FORMAT_VERSION,
            "vocab_size": model.vocab_size,
            "document_start": document_start,
            "megatron": stored_options(model.megatron),
            **({} if classic else {"model": description_of(model)}),
        },
        "target": CLASSIC_TARGET if classic else OUR_TARGET,
        "nemo_version": CLASSIC_VERSION,
    }


def _tokenizer_section(library: str, name: str) -> dict[str, Any]:
    """NeMo reads a SentencePiece model from ``model`` and a Hugging Face directory from ``type``."""
    sentencepiece = library == SENTENCEPIECE
    own = {"sentencepiece_legacy": False} if sentencepiece else {"use_fast": True}
    return {
        "library": library,
        "type": None if sentencepiece else f"nemo:{name}",
        "model": f"nemo:{name}" if sentencepiece else None,
        "vocab_file": None,
        "merge_file": None,
        "delimiter": None,
        **own,
    }


def stored_tokenizer_name(section: dict[str, Any]) -> str:
    """The name of the tokenizer's file or directory in an archive, from the configuration's ``tokenizer``."""
    value = section.get("type") if section.get("library") == HUGGING_FACE else section.get("model")
    return str(value or "").removeprefix("nemo:")


def from_nemo_config(config: dict[str, Any], *, tokenizer_vocab_size: int, stored_rows: int) -> ModelConfig:
    """Reads a classic configuration or this project's; ``stored_rows``: of the stored embedding table.

    Raises:
        UserError: a key is missing, or has a value that no family here computes.
    """
    section = config.get("recipes") or {}
    if not isinstance(section, dict):
        raise UserError("model_config.yaml: recipes is not a mapping")
    if section.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        version = shown(section["format_version"])
        raise UserError(
            f"model_config.yaml: recipes.format_version={version}: this code reads version {FORMAT_VERSION}"
        )
    if "model" in section:
        return described_model(section["model"], stored_rows)
    for key, supported in SUPPORTED_VALUES.items():
        if key in config and config[key] not in supported:
            value = shown(config[key])
            raise UserError(f"model_config.yaml: {key}={value} is not supported (supported: {supported})")
    try:
        return typed_model(
            family=section.get("family", ModelConfig.family),
            num_layers=config["num_layers"],
            hidden_size=config["hidden_size"],
            ffn_hidden_size=config["ffn_hidden_size"],
            num_attention_heads=config["num_attention_heads"],
            num_query_groups=config.get("num_query_groups"),
            kv_channels=config.get("kv_channels"),
            vocab_size=section.get("vocab_size", tokenizer_vocab_size),
            # The stored table is padded already: its height is the multiple.
            make_vocab_size_divisible_by=stored_rows,
            max_position_embeddings=config["max_position_embeddings"],
            normalization=known_value(
                "normalization", config.get("normalization", "layernorm"), NORMALIZATIONS
            ),
            layernorm_epsilon=config.get("layernorm_epsilon", 1e-5),
            activation=known_value("activation", config.get("activation", "gelu"), ACTIVATIONS),
            add_bias_linear=config.get("bias", True),
            position_embedding_type=config.get("position_embedding_type", "learned_absolute"),
            rotary_base=config.get("rotary_base", 10000),
            rotary_percent=config.get("rotary_percentage", 1.0),
            share_embeddings_and_output_weights=config.get("share_embeddings_and_output_weights", True),
            init_method_std=config.get("init_method_std", 0.02),
            use_scaled_init_method=config.get("use_scaled_init_method", True),
            hidden_dropout=config.get("hidden_dropout", 0.1),
            attention_dropout=config.get("attention_dropout", 0.1),
            megatron=stored_megatron(section.get("megatron"), "recipes.megatron"),
        )
    except KeyError as error:
        raise UserError(f"model_config.yaml: {error.args[0]} is missing") from None


def known_value(key: str, value: Any, table: dict[str, str]) -> str:
    if not isinstance(value, str) or value not in table:
        raise UserError(
            f"model_config.yaml: {key}={shown(value)} is not supported (supported: {', '.join(table)})"
        )
    return table[value]
