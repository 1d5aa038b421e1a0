"""Models of ours as the exporters see them: canonical names, tensors that lie in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.checkpoint.huggingface.config import to_generation_config, to_hf_config
from recipes.checkpoint.huggingface.remote import write_remote_code
from recipes.checkpoint.huggingface.tables import rules_of
from recipes.checkpoint.huggingface.write import write_weights
from recipes.checkpoint.sources.blob import Blob
from recipes.checkpoint.sources.lazy import LazyTensor, Stored, row_major, whole
from recipes.checkpoint.sources.names import canonical_names
from recipes.config.schema import ModelConfig
from tests.support.engine import GPTModel


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


def export(directory: Path, model: ModelConfig, tensors: Mapping[str, LazyTensor], **ids: Any) -> Path:
    """Everything but the tokenizer, as the converter writes it, in the stored types."""
    directory.mkdir(exist_ok=True)
    ids = {"bos_id": None, "eos_id": None, "pad_id": None} | ids
    dtype = str(tensors["embedding.word_embeddings.weight"].dtype).removeprefix("torch.")
    config = to_hf_config(model, dtype=dtype, **ids)
    (directory / "config.json").write_text(json.dumps(config))
    generation = to_generation_config(**ids, use_cache=config["use_cache"])
    (directory / "generation_config.json").write_text(json.dumps(generation))
    write_weights(directory, tensors, rules_of(model), lambda name, dtype: dtype, lambda done: None)
    write_remote_code(directory, model)
    return directory
