"""Writes the weights of a Hugging Face directory, with one block of rows in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.recognise import INDEX_FILE, SINGLE_FILE
from recipes.checkpoint.formats.safetensors_file import DTYPE_NAMES, header_bytes
from recipes.checkpoint.stored.fits import check_complete
from recipes.errors import UserError
from recipes.families.tensors import Rows, Shape, TensorSpec

SHARD_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20

DtypeOf = Callable[[str, torch.dtype], torch.dtype]
"""``(canonical name, stored type)`` -> the type to write."""
Progress = Callable[[int], None]
"""Called with the bytes of each tensor that is done, padding rows included."""


def write_weights(
    directory: Path,
    tensors: Mapping[str, LazyTensor],
    table: list[TensorSpec],
    dtype_of: DtypeOf,
    progress: Progress,
) -> None:
    """Writes ``model.safetensors``, or ``model-*-of-*.safetensors`` and their index.

    Raises:
        UserError: the tensors are not those of the table, or cannot be read.
    """
    check_complete(tensors, table)
    types = {spec.name: dtype_of(spec.name, tensors[spec.name].dtype) for spec in table}
    shards = _shards(table, types)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= {theirs: name for spec in shard for theirs in spec.theirs}
        with (directory / name).open("wb") as file:
            _write_shard(file, shard, tensors, types, progress)
    if len(shards) > 1:
        total = sum(_written_bytes(spec, types[spec.name]) for spec in table)
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _written_bytes(spec: TensorSpec, dtype: torch.dtype) -> int:
    return spec.numbers() * dtype.itemsize


def _shards(table: list[TensorSpec], types: Mapping[str, torch.dtype]) -> list[list[TensorSpec]]:
    """Groups tensors into shards of at most SHARD_BYTES; a larger tensor has a shard of its own."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in table:
        needed = _written_bytes(spec, types[spec.name])
        if shards[-1] and size + needed > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += needed
    return shards


def _write_shard(
    file: BinaryIO,
    table: list[TensorSpec],
    tensors: Mapping[str, LazyTensor],
    types: Mapping[str, torch.dtype],
    progress: Progress,
) -> None:
    entries: list[tuple[str, torch.dtype, Shape]] = [
        (name, types[spec.name], shape)
        for spec in table
        for name, shape in zip(spec.theirs, spec.shapes(), strict=True)
    ]
    for name, dtype, _ in entries:
        if dtype not in DTYPE_NAMES:
            raise UserError(f"{name} would be stored as {dtype}, which no reader of weights expects")
    file.write(header_bytes(entries))
    for spec in table:
        tensor = tensors[spec.name]
        for which in range(len(spec.theirs)):
            runs = sorted((run for run in spec.runs if run.which == which), key=lambda run: run.start)
            for run in runs:
                _write_run(file, tensor, run, types[spec.name])
        progress(tensor.nbytes)


def _write_run(file: BinaryIO, tensor: LazyTensor, run: Rows, dtype: torch.dtype) -> None:
    """In blocks: an embedding table can be larger than the memory that a conversion may use."""
    tail = tuple(tensor.shape[1:])
    row = torch.Size(tail).numel() * max(tensor.dtype.itemsize, dtype.itemsize)
    step = max(1, BLOCK_BYTES // max(1, row))
    for place in range(run.place, run.place + run.count, step):
        rows = min(step, run.place + run.count - place)
        block = tensor.box((place,) + (0,) * len(tail), (rows, *tail)).load().to(dtype)
        file.write(block.view(-1).view(torch.uint8).numpy().data)
