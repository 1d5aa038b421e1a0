"""Weights as zarr v2 arrays, as NeMo wrote them before torch_dist: raw chunks, C order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch

from recipes.checkpoint.formats.containers import Files
from recipes.checkpoint.formats.lazy import LazyTensor, Part, Shape, Stored, row_major
from recipes.checkpoint.formats.safety import reason
from recipes.checkpoint.formats.stacked import StackedTensor, is_weight, unstack
from recipes.console import shown
from recipes.errors import UserError

ARRAY = ".zarray"
LARGEST_DESCRIPTION = 1_000_000
MOST_CHUNKS = 100_000
# Bytes that may be missing because they are all fill value: biases, gains stored as offsets from 1.
MOST_FILLED = 64_000_000
# "bfloat16" is no zarr type; tensorstore and NeMo write it all the same.
DTYPES = {
    "bfloat16": torch.bfloat16,
    "<f2": torch.float16,
    "<f4": torch.float32,
    "<f8": torch.float64,
    "<i4": torch.int32,
    "<i8": torch.int64,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}


def is_zarr(files: Files) -> bool:
    """Whether the folder holds arrays."""
    return any(files.find(f"{name}/{ARRAY}") is not None for name in files.names())


def zarr_tensors(files: Files) -> tuple[dict[str, LazyTensor], int]:
    """Canonical name -> tensor, and how many other folders were skipped.

    Raises:
        UserError: damaged, or of a kind of zarr that NeMo never wrote.
    """
    folders = [name for name in files.names() if files.folder(name).names()]
    arrays = [name for name in folders if is_weight(name)]
    skipped = len(folders) - len(arrays)
    return unstack(files.label, _entries(files, arrays)), skipped


def _entries(files: Files, arrays: list[str]) -> Iterator[StackedTensor]:
    filled = 0
    for key in arrays:
        entry, missing = _entry(files.folder(key), key)
        filled += missing
        if filled > MOST_FILLED:
            raise UserError(f"{files.label}/{key}: chunks are missing; the checkpoint is damaged")
        yield entry


def _entry(files: Files, key: str) -> tuple[StackedTensor, int]:
    """One array, and the bytes that its missing chunks stand for."""
    shape, chunk, dtype, separator, fill = _description(files)
    counts = [math.ceil(side / step) for side, step in zip(shape, chunk, strict=True)]
    if math.prod(counts) > MOST_CHUNKS:
        raise UserError(f"{files.label}: {math.prod(counts):,} chunks are more than any model has")
    nbytes = math.prod(chunk) * dtype.itemsize
    parts, missing = [], 0
    for place in product(*map(range, counts)):
        name = separator.join(map(str, place)) or "0"
        blob = files.find(name)
        if blob is None:
            if fill is None:
                raise UserError(f"{files.label}/{name}: no such chunk; the checkpoint is damaged")
            missing += nbytes
            if missing > MOST_FILLED:
                raise UserError(f"{files.label}/{name}: no such chunk, nor many others; it is damaged")
        elif blob.size != nbytes:
            raise UserError(f"{blob.name} has {blob.size:,} bytes, a chunk of {chunk} has {nbytes:,}")
        stored = Stored(blob, dtype, chunk, row_major(chunk), fill=fill or 0.0)
        start = tuple(number * step for number, step in zip(place, chunk, strict=True))
        size = tuple(min(step, side - a) for a, step, side in zip(start, chunk, shape, strict=True))
        parts.append(Part(start, size, partial(_identity, stored), (0,) * len(shape)))
    return StackedTensor(key, shape, dtype, tuple(parts)), missing


def _identity(stored: Stored) -> Stored:
    return stored


def _description(files: Files) -> tuple[Shape, Shape, torch.dtype, str, float | None]:
    blob = files.get(ARRAY)
    try:
        described: dict[str, Any] = json.loads(blob.read(LARGEST_DESCRIPTION))
        shape, chunk = tuple(described["shape"]), tuple(described["chunks"])
        numbers = all(type(number) is int and 0 < number < 2**40 for number in (*shape, *chunk))
        if not numbers or len(shape) != len(chunk) or not shape:
            raise ValueError(f"shape {shown(shape)} in chunks of {shown(chunk)}")
        if any(step > side for step, side in zip(chunk, shape, strict=True)):
            raise ValueError(f"chunks of {chunk} are larger than the array, {shape}")
        for key, allowed in (
            ("zarr_format", (2,)),
            ("compressor", (None,)),
            ("filters", (None, [])),
            ("order", ("C",)),
            ("dtype", tuple(DTYPES)),
            ("dimension_separator", (".", "/")),
        ):
            value = described.get(key, "." if key == "dimension_separator" else None)
            if value not in allowed:
                raise ValueError(f"{key} is {shown(value)}; supported: {allowed}")
        fill = described.get("fill_value")
        separator = described.get("dimension_separator", ".")
        return shape, chunk, DTYPES[described["dtype"]], separator, None if fill is None else float(fill)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{blob.name}: no readable description of an array: {reason(error)}") from None
