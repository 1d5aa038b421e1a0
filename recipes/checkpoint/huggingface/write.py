"""Writes the weights of a Hugging Face directory, with one block of rows in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from recipes.checkpoint.huggingface.rules import Rule, Run, Shape
from recipes.checkpoint.huggingface.safetensors_file import DTYPE_NAMES, header_bytes
from recipes.checkpoint.sources.fits import check_complete
from recipes.checkpoint.sources.lazy import LazyTensor
from recipes.errors import UserError

SHARD_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DtypeOf = Callable[[str, torch.dtype], torch.dtype]
"""``(our name, stored type)`` -> the type to write."""
Progress = Callable[[int], None]
"""Told of the bytes of ours that are done, padded rows included."""


def write_weights(
    directory: Path,
    tensors: Mapping[str, LazyTensor],
    rules: list[Rule],
    dtype_of: DtypeOf,
    progress: Progress,
) -> None:
    """Writes ``model.safetensors``, or ``model-*-of-*.safetensors`` and their index.

    Raises:
        UserError: the tensors are not those that the rules name, or cannot be read.
    """
    check_complete(tensors, rules)
    types = {rule.ours: dtype_of(rule.ours, tensors[rule.ours].dtype) for rule in rules}
    shards = _shards(rules, types)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= {theirs: name for rule in shard for theirs in rule.theirs}
        with (directory / name).open("wb") as file:
            _write_shard(file, shard, tensors, types, progress)
    if len(shards) > 1:
        total = sum(_written_bytes(rule, types[rule.ours]) for rule in rules)
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
        (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _written_bytes(rule: Rule, dtype: torch.dtype) -> int:
    row = rule.elements() // rule.shape[0]
    return (rule.shape[0] - rule.padding()) * row * dtype.itemsize


def _shards(rules: list[Rule], types: Mapping[str, torch.dtype]) -> list[list[Rule]]:
    """Rules together as long as they fit into SHARD_BYTES; a larger one stands alone."""
    shards: list[list[Rule]] = [[]]
    size = 0
    for rule in rules:
        needed = _written_bytes(rule, types[rule.ours])
        if shards[-1] and size + needed > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(rule)
        size += needed
    return shards


def _write_shard(
    file: BinaryIO,
    rules: list[Rule],
    tensors: Mapping[str, LazyTensor],
    types: Mapping[str, torch.dtype],
    progress: Progress,
) -> None:
    entries: list[tuple[str, torch.dtype, Shape]] = [
        (name, types[rule.ours], shape)
        for rule in rules
        for name, shape in zip(rule.theirs, rule.shapes(), strict=True)
    ]
    for name, dtype, _ in entries:
        if dtype not in DTYPE_NAMES:
            raise UserError(f"{name} would be stored as {dtype}, which no reader of weights expects")
    file.write(header_bytes(entries))
    for rule in rules:
        tensor = tensors[rule.ours]
        for which in range(len(rule.theirs)):
            runs = sorted((run for run in rule.runs if run.which == which), key=lambda run: run.start)
            for run in runs:
                _write_run(file, tensor, run, types[rule.ours])
        progress(tensor.nbytes)


def _write_run(file: BinaryIO, tensor: LazyTensor, run: Run, dtype: torch.dtype) -> None:
    """In blocks: a table of words can be larger than the memory that a conversion may take."""
    tail = tuple(tensor.shape[1:])
    row = torch.Size(tail).numel() * max(tensor.dtype.itemsize, dtype.itemsize)
    step = max(1, BLOCK_BYTES // max(1, row))
    for place in range(run.place, run.place + run.rows, step):
        rows = min(step, run.place + run.rows - place)
        block = tensor.box((place,) + (0,) * len(tail), (rows, *tail)).load().to(dtype)
        file.write(block.view(-1).view(torch.uint8).numpy().data)
