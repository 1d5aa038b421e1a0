"""Weights as plain state dicts: one file, or one per tensor-parallel rank and pipeline stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.containers import Files
from recipes.checkpoint.formats.lazy import LazyTensor, Stored, joined, whole
from recipes.checkpoint.formats.names import EXTRA_STATE, LAYER, canonical_names, is_derived, without_wrapper
from recipes.checkpoint.formats.torch_file import read_torch_file
from recipes.console import shown
from recipes.errors import UserError

WEIGHTS = "model_weights.ckpt"
# A rank's folder: its tensor-parallel rank, and its pipeline stage where there are several.
RANK = re.compile(r"mp_rank_(\d+)|tp_rank_(\d+)_pp_rank_(\d+)")
LAYER_NUMBER = re.compile(r"(.*\.layers\.)(\d+)(\..*)")

# How tensor parallelism splits (megatron-core's ColumnParallelLinear and RowParallelLinear): endings of
# canonical names -> axis. Gated first matrices are [gate; up] on every rank.
BY_ROWS = re.compile(
    r"(word_embeddings\.weight|output_layer\.(weight|bias)|linear_qkv\.(weight|bias)|"
    r"linear_fc1\.(weight|bias)\d*)"
)
BY_COLUMNS = re.compile(r"(linear_proj\.weight|linear_fc2\.weight\d*)")
FIRST_MATRIX = re.compile(r"(.*)linear_fc1\.(weight|bias)(\d*)")
NOT_SPLIT = re.compile(
    r".*(norm\.(weight|bias)|layer_norm_(weight|bias)|linear_proj\.bias|linear_fc2\.bias\d*|"
    r"position_embeddings\.weight|router\.[a-z_]+|resid_lambda|x0_lambda)"
)
SECOND_GATE = ".mlp.dense_h_to_4h_2."  # With mcore_gpt: false, where the first matrix is the gate.


def rank_blobs(files: Files) -> dict[tuple[int, int], Blob]:
    """(pipeline stage, tensor-parallel rank) -> weights file; {} where there are none.

    Raises:
        UserError: a rank is missing, or the folder has files of several layouts.
    """
    single = files.find(WEIGHTS)
    found: dict[tuple[int, int], Blob] = {} if single is None else {(0, 0): single}
    for name in files.names():
        match = RANK.fullmatch(name)
        if match is None:
            continue
        place = (int(match[3] or 0), int(match[1] or match[2] or 0))
        if place in found:
            raise UserError(f"{files.label}: weights of several layouts lie together, {name} among them")
        found[place] = files.get(f"{name}/{WEIGHTS}")
    if not found:
        return {}
    stages, ranks = (1 + max(numbers) for numbers in zip(*found, strict=True))
    if len(found) != stages * ranks:
        raise UserError(
            f"{files.label}: {len(found)} rank files for {ranks} tensor-parallel ranks x {stages} stages"
        )
    return found


def rank_tensors(files: Files) -> tuple[dict[str, LazyTensor], int]:
    """Canonical name -> tensor, and how many extra states were skipped.

    How the weights are split follows from the number of files, not from the configuration.

    Raises:
        UserError: hostile or damaged, or the ranks do not fit together.
    """
    blobs = rank_blobs(files)
    stages, ranks = (1 + max(numbers) for numbers in zip(*blobs, strict=True))
    tensors: dict[str, LazyTensor] = {}
    layers = skipped = 0
    for stage in range(stages):
        parts = []
        for rank in range(ranks):
            states, extra = _state_dict(blobs[stage, rank])
            skipped += extra
            parts.append(_canonical(blobs[stage, rank].name, states, layers))
        merged = _merged(files.label, parts)
        for name in merged:
            if name in tensors:
                raise UserError(f"{files.label}: pipeline stage {stage} stores {name} again")
        tensors |= merged
        numbers = [int(match[1]) for name in merged if (match := LAYER.match(name))]
        layers = max(numbers, default=layers - 1) + 1
    return tensors, skipped


def _state_dict(blob: Blob) -> tuple[dict[str, Stored], int]:
    content: Any = read_torch_file(blob)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # As Lightning saves.
    if not isinstance(content, Mapping):
        raise UserError(f"{blob.name} holds no state dict; it is damaged")
    tensors, skipped = {}, 0
    for name, value in content.items():
        if not isinstance(name, str):
            raise UserError(f"{blob.name}: {shown(name)} is not a tensor's name")
        if EXTRA_STATE in name or is_derived(name):
            skipped += 1
        elif not isinstance(value, Stored):
            raise UserError(f"{blob.name}: {name} is not a tensor")
        else:
            tensors[name] = value
    return tensors, skipped


def _canonical(label: str, tensors: dict[str, Stored], first_layer: int) -> dict[str, LazyTensor]:
    """Under canonical names; a pipeline stage counts its layers from 0."""
    numbered = {}
    for name, stored in tensors.items():
        match = LAYER_NUMBER.fullmatch(without_wrapper(name))
        numbered[f"{match[1]}{int(match[2]) + first_layer}{match[3]}" if match else name] = stored
    halves = {name for name in numbered if SECOND_GATE in name}
    try:
        canonical = canonical_names(numbered.keys() - halves)
        if len(numbered) != len(tensors):
            raise UserError("two of its names are the same tensor")
    except UserError as error:
        raise UserError(f"{label}: {error}") from None
    found = {short: whole(short, numbered[name]) for name, short in canonical.items()}
    for half in halves:
        first = canonical.get(half.replace(SECOND_GATE, ".mlp.dense_h_to_4h."))
        if first is None:
            raise UserError(f"{label}: {half} has no first half")
        found[first] = joined(first, [found[first], whole(half, numbered[half])], 0)
    return found


def _merged(label: str, ranks: list[dict[str, LazyTensor]]) -> dict[str, LazyTensor]:
    """Merges each tensor's parts, one per rank."""
    first = ranks[0]
    if len(ranks) == 1:
        return first
    for rank, tensors in enumerate(ranks):
        differing = sorted(tensors.keys() ^ first.keys())
        if differing:
            raise UserError(f"{label}: {differing[0]} is not stored by both rank 0 and rank {rank}")
    return {name: _merge(label, name, [rank[name] for rank in ranks], first) for name in first}


def _merge(label: str, name: str, parts: list[LazyTensor], siblings: Mapping[str, LazyTensor]) -> LazyTensor:
    ending = name.split(".layers.")[-1]
    if any((part.shape, part.dtype) != (parts[0].shape, parts[0].dtype) for part in parts):
        raise UserError(f"{label}: the ranks stored {name} in different shapes or types; it is damaged")
    if BY_COLUMNS.search(ending):
        return joined(name, parts, 1)
    if BY_ROWS.search(ending):
        if _is_gated(name, parts[0], siblings):
            return joined(name, [_half(part, half) for half in (0, 1) for part in parts], 0)
        return joined(name, parts, 0)
    if not NOT_SPLIT.fullmatch(name):
        raise UserError(f"{label}: how tensor-parallel ranks split {name} is not known")
    return replace(parts[0], copies=tuple(parts[1:]))


def _is_gated(name: str, tensor: LazyTensor, siblings: Mapping[str, LazyTensor]) -> bool:
    """Whether a first matrix (or its bias) holds gate and up: twice as high as the second is wide."""
    match = FIRST_MATRIX.fullmatch(name)
    if match is None or not tensor.shape:
        return False
    second = siblings.get(f"{match[1]}linear_fc2.weight{match[3]}")
    return second is not None and len(second.shape) == 2 and tensor.shape[0] == 2 * second.shape[1]


def _half(tensor: LazyTensor, half: int) -> LazyTensor:
    rows = tensor.shape[0] // 2
    rest = tensor.shape[1:]
    return tensor.box((half * rows, *(0 for _ in rest)), (rows, *rest))
