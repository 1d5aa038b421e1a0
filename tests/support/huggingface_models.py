"""Models of ours as the exporters see them: canonical names, tensors that lie in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import LazyTensor, Stored, row_major, whole
from recipes.checkpoint.formats.names import canonical_names
from recipes.checkpoint.huggingface.config import architecture_of, to_generation_config, to_hf_config
from recipes.checkpoint.huggingface.remote import write_remote_code
from recipes.checkpoint.huggingface.write import write_weights
from recipes.families.family import layout_of
from recipes.families.model_config import ModelConfig
from tests.support.engine import TINY

LLAMA = replace(
    TINY,
    hidden_size=48,
    kv_channels=16,
    rotary_base=500,
    layernorm_epsilon=1e-3,
)
MISTRAL = replace(LLAMA, window_size=5, window_pattern="S")
QWEN3 = replace(LLAMA, qk_layernorm=True)
EXPERTS = replace(QWEN3, num_moe_experts=6, moe_ffn_hidden_size=40)
GLM4 = replace(
    EXPERTS,
    moe_router_topk=3,
    first_k_dense_replace=1,
    share_embeddings_and_output_weights=True,
    moe_shared_expert_intermediate_size=80,
    moe_router_score_function="sigmoid",
    moe_router_enable_expert_bias=True,
    moe_router_topk_scaling_factor=2.5,
)
GEMMA3 = replace(
    LLAMA,
    family="gemma3",
    activation="geglu",
    qk_layernorm=True,
    rotary_base_local=50,
    window_size=5,
    window_pattern="SSL",
    share_embeddings_and_output_weights=True,
)
NANO = replace(
    LLAMA,
    family="nano_hindi",
    activation="squared_relu",
    qk_layernorm=True,
    window_size=5,
    window_pattern="SSSL",
    num_layers=5,
    final_logit_softcapping=15.0,
)
PARAM_MOE = replace(
    LLAMA,
    family="param_moe",
    num_query_groups=None,
    activation="gelu",
    normalization="LayerNorm",
    add_bias_linear=True,
    position_embedding_type="learned_absolute",
    rotary_base=10000,
    num_moe_experts=4,
    moe_layer_freq=2,
)
CASES = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "llama_tied_mha": replace(LLAMA, num_query_groups=4, share_embeddings_and_output_weights=True),
    "llama_mqa": replace(LLAMA, num_query_groups=1, vocab_size=256),
    "qwen3": QWEN3,
    "qwen3_moe": EXPERTS,
    "qwen3_moe_unnormalised": replace(EXPERTS, moe_router_pre_softmax=True),
    "qwen3_moe_some_layers": replace(EXPERTS, first_k_dense_replace=1, moe_layer_freq=2),
    "mixtral": replace(EXPERTS, qk_layernorm=False, moe_ffn_hidden_size=None),
    "glm4_moe": GLM4,
    "glm4_moe_partly_rotated": replace(GLM4, rotary_percent=0.5, qk_layernorm=False),
    "glm4_moe_one_expert": replace(GLM4, moe_router_topk=1, moe_router_topk_scaling_factor=None),
    "gemma3": GEMMA3,
    "gemma3_untied_full": replace(
        GEMMA3,
        share_embeddings_and_output_weights=False,
        window_size=None,
        window_pattern=None,
        rotary_base_local=None,
    ),
    "nano_hindi": NANO,
    "nano_hindi_full": replace(NANO, window_size=None, window_pattern=None, final_logit_softcapping=None),
    "param_moe": PARAM_MOE,
}


def shaken(gpt: GPTModel) -> GPTModel:
    """Moves every number away from its initial value: gains, zeroed matrices, expert biases, padded rows."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in tensors_of(gpt).values():
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            tensor += 0.5 * noise if tensor.dim() == 1 else 0.4 * (noise - 0.5)
    return gpt


def tensors_of(gpt: GPTModel) -> dict[str, Tensor]:
    """Parameters and expert biases under canonical names."""
    named = dict(gpt.named_parameters())
    named |= {name: buffer for name, buffer in gpt.named_buffers() if name.endswith("expert_bias")}
    return {canonical: named[name].data for name, canonical in canonical_names(named).items()}


def stored_in(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """The tensors, one after the other in a file."""
    path.write_bytes(
        b"".join(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy() for tensor in tensors.values())
    )
    blob = Blob(path, 0, path.stat().st_size, str(path))
    lazy, offset = {}, 0
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        lazy[name] = whole(
            name, Stored(blob.part(offset, tensor.nbytes), tensor.dtype, shape, row_major(shape))
        )
        offset += tensor.nbytes
    return lazy


def export(
    directory: Path,
    model: ModelConfig,
    tensors: Mapping[str, LazyTensor],
    layout: str | None = None,
    **ids: Any,
) -> Path:
    """Everything but the tokenizer, as the converter writes it, in the stored types."""
    directory.mkdir(exist_ok=True)
    ids = {"bos_id": None, "eos_id": None, "pad_id": None} | ids
    dtype = str(tensors["embedding.word_embeddings.weight"].dtype).removeprefix("torch.")
    config = to_hf_config(model, dtype=dtype, layout=layout, **ids)
    (directory / "config.json").write_text(json.dumps(config))
    generation = to_generation_config(**ids, use_cache=config["use_cache"])
    (directory / "generation_config.json").write_text(json.dumps(generation))
    table = layout_of(model, layout).tensors(model)
    write_weights(directory, tensors, table, lambda name, dtype: dtype, lambda done: None)
    write_remote_code(directory, model, layout)
    return directory


@contextmanager
def module_cache(directory: Path) -> Iterator[None]:
    """Remote code is copied to and imported from here, one place for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(directory))
        yield


def loaded(directory: Path, model: ModelConfig, layout: str | None = None, **options: Any) -> Any:
    """By transformers, with nothing missing and nothing left over."""
    from transformers import AutoModelForCausalLM

    found, info = AutoModelForCausalLM.from_pretrained(
        directory,
        output_loading_info=True,
        attn_implementation="eager",
        trust_remote_code=architecture_of(model, layout).remote_code is not None,
        **options,
    )
    assert type(found).__name__ == architecture_of(model, layout).name
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return found.eval()


def tokens_for(model: ModelConfig, length: int = 24) -> torch.Tensor:
    return torch.randint(model.vocab_size, (3, length), generator=torch.Generator().manual_seed(3))
