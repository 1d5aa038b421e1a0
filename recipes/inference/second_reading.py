"""The logits of a stored model by a second reading of its configuration, for ``--verify``.

Both sides of a conversion come out of one reader, so that an option which it overlooks is missing on both and
the comparison finds nothing. Here a Hugging Face directory is read by transformers, and a NeMo checkpoint by
NeMo's own rule: every key that megatron-core's TransformerConfig knows is handed to megatron-core under its
own name, and megatron-core's own modules compute. The weights are read as always: tensors that are left
over, missing or of another shape are refused by then.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recipes.parallel import cpu_stand_in

if not torch.cuda.is_available():  # Before megatron-core is imported: it looks at CUDA as it loads.
    cpu_stand_in.install()

from megatron.core.activations import squared_relu
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.transformer import TransformerConfig
from torch import Tensor
from torch.nn.functional import gelu, silu

from recipes.checkpoint.nemo.classic_config import CLASSIC_TARGET
from recipes.checkpoint.stored.fill import load_weights
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.families.family import family_of, layout_of
from recipes.families.tensors import WORD_EMBEDDINGS
from recipes.inference.text_model import prepare_process

TRANSFORMERS, MEGATRON_CORE = "transformers", "megatron-core"
# What depends on the machine: numeric formats, kernels, memory and random numbers.
OF_THE_MACHINE = re.compile(
    "_?(fp4|fp8|cuda_graph|enable_cuda|external_cuda|cpu_offloading|recompute_|tp_comm|quant_|test_mode"
    "|apply_query_key_layer_scaling|attention_softmax_in_fp32|attention_backend|batch_invariant"
    "|(apply_rope|masked_softmax|bias_dropout|fused_single_qkv|moe_permute|moe_router)_?\\w*fusion"
    "|config_logger_dir|distribute_saved|first_last_layers_bf16|flash_decode|fp32_residual|inference_"
    "|(memory_efficient|persist)_layer_norm|moe_(deepep|enable_|flex|grouped|hybridep|layer_recompute"
    "|per_layer_logging|shared_expert_overlap|token_dispatcher|use_legacy)|num_layers_(at|in)_"
    "|(first|last)_pipeline|transformer_impl|symmetric_ar|use_(te|kitchen|inference|fused|mamba))\\w*"
)
# Names that megatron-core's options may have; no other text of a file reaches it.
CHOICES = ("aux_loss", "none", "position", "probs", "seq_aux_loss", "sigmoid", "softmax", "vanilla")
NORMALIZATIONS = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
ACTIVATIONS = {
    "swiglu": (silu, True),
    "fast-swiglu": (silu, True),
    "gelu": (gelu, False),
}
FUNCTIONS = {
    "torch.nn.functional.silu": silu,
    "torch.nn.functional.gelu": gelu,
    "torch._C._nn.gelu": gelu,
    "megatron.core.activations.squared_relu": squared_relu,
}


@dataclasses.dataclass(frozen=True)
class SecondReading:
    """Who read the configuration, and the logits."""

    reader: str
    logits: Tensor


def second_reading(source: StoredModel, tokens: Tensor) -> SecondReading | None:
    """The logits ``[b, s, v]`` in fp32 of tokens ``[b, s]``; None where nothing else can read the source.

    Nothing else reads this project's own files, nor what transformers has no class for.
    """
    if source.generation == "huggingface":
        if not _transformers_knows(source):
            return None
        return SecondReading(TRANSFORMERS, transformers_logits(source.path, tokens))
    if source.generation == "nemo2":
        config = source.config["config"]
        return SecondReading(MEGATRON_CORE, _megatron_logits(source, _nemo2_fields(config), config, tokens))
    config = source.config
    if source.generation == "classic" and config.get("target", CLASSIC_TARGET) == CLASSIC_TARGET:
        return SecondReading(MEGATRON_CORE, _megatron_logits(source, _classic_fields(config), config, tokens))
    return None


def transformers_logits(path: Path, tokens: Tensor) -> Tensor:
    """transformers' logits in fp32. The directory's code is run if its configuration names any."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    has_code = "auto_map" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=has_code)
    with torch.inference_mode():
        logits: Tensor = model.eval()(tokens).logits
    return logits.float()


def _transformers_knows(source: StoredModel) -> bool:
    """By a class of its own, or by this project's code, unchanged. A stranger's code is not run."""
    from transformers import CONFIG_MAPPING

    if "auto_map" not in source.config:
        return source.config.get("model_type") in CONFIG_MAPPING
    kind = source.config["model_type"]
    layout = layout_of(source.model, kind if kind in family_of(source.model).layouts else None)
    code = layout.architecture(source.model).remote_code
    return code is not None and _same_file(source.path / code.name, code)


def _same_file(first: Path, second: Path) -> bool:
    return first.is_file() and first.read_bytes() == second.read_bytes()


def _classic_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What MegatronGPTModel.build_transformer_config makes of a model_config.yaml (NeMo 2.0.0)."""
    function, gated = ACTIVATIONS[config.get("activation", "gelu")]
    return {
        **_fields_by_name(config),
        "normalization": NORMALIZATIONS[config.get("normalization", "layernorm")],
        "activation_func": function,
        "gated_linear_unit": gated,
        "add_bias_linear": config.get("bias", True),
        # Of the two activations GELU alone is computed otherwise when it is fused.
        "bias_activation_fusion": function is gelu and config.get("bias_activation_fusion", True),
    }


def _nemo2_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """NeMo 2's configuration is megatron-core's."""
    stated = config.get("activation_func", "torch.nn.functional.gelu")
    function = FUNCTIONS[stated["_target_"] if isinstance(stated, dict) else stated]
    return {
        **_fields_by_name(config),
        "normalization": config.get("normalization", "LayerNorm"),
        "activation_func": function,
        "bias_activation_fusion": function is gelu and config.get("bias_activation_fusion", False),
    }


def _fields_by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    of_layouts = {field.name for field in dataclasses.fields(ModelParallelConfig)}
    names = {field.name for field in dataclasses.fields(TransformerConfig)} - of_layouts
    found = {}
    for name in names & config.keys():
        value = config[name]
        if OF_THE_MACHINE.fullmatch(name) or not _is_plain(value):
            continue
        found[name] = tuple(value) if name == "window_size" and value is not None else value
    return found


def _is_plain(value: Any) -> bool:
    """Numbers, flags and known words: a path or the name of a function would be followed."""
    if isinstance(value, list):
        return all(type(item) is int for item in value)
    return value is None or isinstance(value, bool | int | float) or value in CHOICES


@torch.inference_mode()
def _megatron_logits(
    source: StoredModel, fields: dict[str, Any], config: Mapping[str, Any], tokens: Tensor
) -> Tensor:
    device = prepare_process()
    transformer = TransformerConfig(**fields, use_cpu_initialization=True)
    spec = get_gpt_decoder_block_spec(transformer, use_transformer_engine=False)
    share = config.get("share_embeddings_and_output_weights", True)
    gpt = GPTModel(
        config=transformer,
        transformer_layer_spec=spec,
        vocab_size=source.tensors[WORD_EMBEDDINGS].shape[0],
        max_sequence_length=source.model.max_position_embeddings,
        parallel_output=False,
        share_embeddings_and_output_weights=share,
        position_embedding_type=config.get("position_embedding_type", "learned_absolute"),
        rotary_percent=config.get("rotary_percentage", config.get("rotary_percent", 1.0)),
        rotary_base=config.get("rotary_base", 10000),
    )
    gpt = gpt.to(device).eval()
    load_weights(source, gpt)
    tokens = tokens.to(device)
    positions = torch.arange(tokens.shape[1], device=device).expand_as(tokens)
    return gpt(tokens, positions, None, runtime_gather_output=True).float().cpu()
