"""Reads a Hugging Face directory: config.json, and safetensors weights under canonical names.

Nothing is executed and no code in the directory is read. A tensor's numbers are read when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recipes.checkpoint.formats.containers import DirectoryFiles, Files
from recipes.checkpoint.formats.lazy import LazyTensor, Part, Stored, row_major, whole
from recipes.checkpoint.formats.recognise import INDEX_FILE, SINGLE_FILE, check_weights
from recipes.checkpoint.formats.safetensors_file import parse_json, read_safetensors
from recipes.checkpoint.huggingface.config import FILE, from_hf_config
from recipes.console import shown
from recipes.data.tokenizer.file_names import TOKENIZER_JSON, TOKENIZER_MODEL
from recipes.data.tokenizer.tokenizer_files import tokenizer_paths
from recipes.errors import UserError
from recipes.families.blocks import OUTPUT
from recipes.families.family import family_of, layout_of
from recipes.families.model_config import ModelConfig, moe_layers, num_query_groups
from recipes.families.tensors import WORD_EMBEDDINGS, TensorSpec

LARGEST_JSON = 50_000_000
MOST_TENSORS = 500_000
MOST_GROUPS = 200_000  # Over all layers.
TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Computed by transformers' models themselves; older versions stored them all the same.
DERIVED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class HuggingFaceDirectory:
    """What a directory holds, under canonical names."""

    config: dict[str, Any]
    """config.json as it is."""
    model: ModelConfig
    tensors: Mapping[str, LazyTensor]
    """Canonical name -> tensor; padding rows of vocabularies are zero."""
    tokenizer_files: Mapping[str, Path]
    """Of its tokenizer, by name; {} where there is none."""


def open_huggingface(path: Path) -> HuggingFaceDirectory:
    """Reads config.json and the headers of the weights.

    Raises:
        UserError: it is no such directory, or is damaged, or no family here computes its model.
    """
    files = DirectoryFiles(path)
    config = parse_json(files.get(FILE).read(LARGEST_JSON), f"{path}/{FILE}")
    stored = _stored_tensors(files)
    model = from_hf_config(config)
    _check_counts(model, len(stored), files.label)
    stored = _with_single_experts(_without_derived(stored), model, files.label)
    if model.share_embeddings_and_output_weights and OUTPUT in stored:
        stored = _without_tied_head(stored, _embedding(_table(model, config)), files.label)
    return HuggingFaceDirectory(
        config=config,
        model=model,
        tensors=_merged(stored, _table(model, config), files.label),
        tokenizer_files=_tokenizer_files(path, files),
    )


def _table(model: ModelConfig, config: Mapping[str, Any]) -> list[TensorSpec]:
    """With the names that a directory of this type has."""
    kind = config["model_type"]
    return layout_of(model, kind if kind in family_of(model).layouts else None).tensors(model)


def _tokenizer_files(path: Path, files: Files) -> dict[str, Path]:
    whole = files.find(TOKENIZER_JSON) or files.find(TOKENIZER_MODEL)
    return tokenizer_paths(path) if whole else {}


def _stored_tensors(files: Files) -> dict[str, Stored]:
    """Every tensor of the directory, under its Hugging Face name."""
    single = files.find(SINGLE_FILE)
    if single is not None:
        return read_safetensors(single)
    check_weights(files)
    index = files.get(INDEX_FILE)
    places = parse_json(index.read(LARGEST_JSON), index.name).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index.name}: weight_map is missing")
    found: dict[str, Stored] = {}
    blobs = {}
    for shard in sorted({_shard_name(name, index.name) for name in places.values()}):
        blob = files.find(shard)
        if blob is None:
            raise UserError(f"{files.label}: {shown(shard)}: no such file, which {INDEX_FILE} names")
        blobs[shard] = blob
    for shard, blob in blobs.items():
        for name, stored in read_safetensors(blob).items():
            if places.get(name) != shard:
                raise UserError(f"{blob.name}: {shown(name)} is not where {INDEX_FILE} says")
            found[name] = stored
        if len(found) > MOST_TENSORS:
            raise UserError(f"{files.label}: holds more than {MOST_TENSORS:,} tensors; it is damaged")
    for name in places.keys() - found.keys():
        raise UserError(f"{files.label}/{places[name]}: {shown(name)} is missing, which {INDEX_FILE} names")
    return found


def _shard_name(name: Any, index: str) -> str:
    if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
        raise UserError(f"{index}: {shown(name)} is not the name of a file beside it; refused")
    return name


def _check_counts(model: ModelConfig, tensors: int, label: str) -> None:
    """Checked before anything is built for every layer and expert that config.json asks for."""
    if model.num_layers > tensors:
        raise UserError(
            f"{label}: num_hidden_layers={model.num_layers}, but its weights are {tensors} tensors in all"
        )
    groups = num_query_groups(model)
    if model.num_layers * groups > MOST_GROUPS:
        raise UserError(f"{label}: config.json: num_key_value_heads={groups} is more than any model has")


def _without_derived(stored: dict[str, Stored]) -> dict[str, Stored]:
    return {name: tensor for name, tensor in stored.items() if not name.endswith(DERIVED)}


def _with_single_experts(stored: dict[str, Stored], model: ModelConfig, label: str) -> dict[str, Stored]:
    """Splits tensors of all experts of a layer, as transformers 5 may store them, as older versions do."""
    layers = sum(moe_layers(model))
    if not layers or model.num_moe_experts is None:
        return stored
    single = dict(stored)
    for name, tensor in stored.items():
        prefix, _, kind = name.rpartition(".experts.")
        mixtral = prefix.endswith("block_sparse_moe")
        if kind not in ("gate_up_proj", "down_proj"):
            continue
        if len(tensor.shape) != 3 or tensor.shape[0] != model.num_moe_experts:
            raise UserError(
                f"{label}: {name} has the shape {tensor.shape}, config.json says "
                f"{model.num_moe_experts} experts"
            )
        del single[name]
        for expert in range(model.num_moe_experts):
            for part, begin, rows in _expert_parts(kind, tensor.shape[1], mixtral):
                box = tensor.box((expert, begin, 0), (1, rows, tensor.shape[2]))
                shape = (rows, tensor.shape[2])
                single[f"{prefix}.experts.{expert}.{part}.weight"] = Stored(
                    box.blob, box.dtype, shape, row_major(shape), box.offset
                )
    if layers * model.num_moe_experts > len(single):
        raise UserError(
            f"{label}: config.json asks for {layers} layers of {model.num_moe_experts} experts, its weights "
            f"are {len(stored)} tensors"
        )
    return single


def _expert_parts(kind: str, rows: int, mixtral: bool) -> Iterator[tuple[str, int, int]]:
    if kind == "down_proj":
        yield ("w2" if mixtral else kind), 0, rows
        return
    names = ("w1", "w3") if mixtral else ("gate_proj", "up_proj")
    for number, name in enumerate(names):
        yield name, number * (rows // 2), rows // 2


def _embedding(table: list[TensorSpec]) -> str:
    """What the directory calls the word embeddings."""
    return next(spec.theirs[0] for spec in table if spec.name == WORD_EMBEDDINGS)


def _without_tied_head(stored: dict[str, Stored], name: str, label: str) -> dict[str, Stored]:
    """Drops a tied head that is stored all the same; it must equal the embedding."""
    head, embedding = stored[OUTPUT], stored.get(name)
    if embedding is None:
        # Some writers keep the head instead of the embedding.
        return {(name if theirs == OUTPUT else theirs): tensor for theirs, tensor in stored.items()}
    if head.shape != embedding.shape or head.dtype != embedding.dtype or not _equal(head, embedding):
        raise UserError(f"{label}: tie_word_embeddings is true, but {OUTPUT} is another than {name}")
    return {theirs: tensor for theirs, tensor in stored.items() if theirs != OUTPUT}


def _equal(a: Stored, b: Stored) -> bool:
    """Compares in blocks of rows."""
    rows = a.shape[0] if a.shape else 1
    step = max(1, 2**24 // max(1, torch.Size(a.shape[1:]).numel()))
    left, right = whole("", a), whole("", b)
    tail = a.shape[1:]
    for start in range(0, rows, step):
        begin, size = (start,) + (0,) * len(tail), (min(step, rows - start), *tail)
        if not torch.equal(left.box(begin, size).load(), right.box(begin, size).load()):
            return False
    return True


def _merged(stored: dict[str, Stored], table: list[TensorSpec], label: str) -> dict[str, LazyTensor]:
    """The canonical tensors, made of parts of the stored ones."""
    unused = set(stored)
    tensors = {}
    for spec in table:
        parts = []
        for name, shape in zip(spec.theirs, spec.shapes(), strict=True):
            if name not in stored:
                raise UserError(f"{label}: {name} is missing, which config.json asks for")
            if stored[name].shape != shape:
                raise UserError(
                    f"{label}: {name} has the shape {stored[name].shape}, config.json asks for {shape}"
                )
            unused.discard(name)
            parts.append(stored[name])
        tensors[spec.name] = _lazy(spec, parts, label)
    for name in sorted(unused):
        raise UserError(f"{label}: {shown(name)} is left over: config.json's model has no place for it")
    return tensors


def _lazy(spec: TensorSpec, stored: list[Stored], label: str) -> LazyTensor:
    dtype = stored[0].dtype
    for name, tensor in zip(spec.theirs, stored, strict=True):
        if tensor.dtype not in TYPES:
            raise UserError(f"{label}: {name} is {tensor.dtype}; weights must be fp32, bf16 or fp16")
        if tensor.dtype != dtype:
            raise UserError(f"{label}: {name} is {tensor.dtype}, {spec.theirs[0]} is {dtype}")
    tail = spec.shape[1:]
    origin = (0,) * len(tail)
    parts = [
        Part(
            (run.place, *origin),
            (run.count, *tail),
            partial(stored.__getitem__, run.which),
            (run.start, *origin),
        )
        for run in spec.runs
    ]
    if spec.padding():
        size = (spec.padding(), *tail)
        padding = Stored(None, dtype, size, row_major(size))
        start = (spec.shape[0] - spec.padding(), *origin)
        parts.append(Part(start, size, lambda: padding, (0, *origin)))
    return LazyTensor(spec.name, spec.shape, dtype, tuple(parts))
