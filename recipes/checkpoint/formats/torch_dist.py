"""Weights in PyTorch's distributed format: ``.metadata`` and ``__<rank>_<n>.distcp``, read item by item."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.containers import Files
from recipes.checkpoint.formats.lazy import LazyTensor, Part, Shape, Stored
from recipes.checkpoint.formats.safety import parse_metadata, parse_plain, reason
from recipes.checkpoint.formats.stacked import StackedTensor, is_weight, unstack
from recipes.checkpoint.formats.torch_file import read_torch_file
from recipes.console import shown
from recipes.errors import UserError

METADATA = ".metadata"
COMMON = "common.pt"
LARGEST_METADATA = 1_000_000_000
LARGEST_COMMON = 256_000_000


def read_common(files: Files) -> Any:
    """The plain data beside the tensors.

    Raises:
        UserError: it is missing, damaged, or no plain data.
    """
    blob = files.get(COMMON)
    return parse_plain(blob.read(LARGEST_COMMON), blob.name)


def torch_dist_tensors(files: Files, prefix: str = "") -> tuple[dict[str, LazyTensor], int]:
    """Canonical name -> tensor, and how many other entries were skipped.

    ``prefix``: what the keys of the wanted tensors have before a weight's.

    Raises:
        UserError: hostile or damaged.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    blobs = {name: blob for name in files.names() if name.endswith(".distcp") and (blob := files.find(name))}
    present = sum(blob.size for blob in blobs.values())
    blob = files.get(METADATA)
    metadata = parse_metadata(blob.read(LARGEST_METADATA), blob.name, present)
    stored = metadata.state_dict_metadata
    weights = {
        key: item
        for key, item in stored.items()
        if isinstance(item, TensorStorageMetadata)
        and isinstance(key, str)
        and key.startswith(prefix)
        and is_weight(key.removeprefix(prefix))
    }
    try:
        places = {
            (index.fqn, None if index.offset is None else tuple(index.offset)): storage
            for index, storage in metadata.storage_data.items()
        }
    except Exception:
        raise UserError(f"{blob.name}: not the metadata of a checkpoint; it is damaged") from None
    found = (_checked_entry(files, key, item, places, blobs) for key, item in weights.items())
    entries = (replace(entry, key=entry.key.removeprefix(prefix)) for entry in found)
    return unstack(files.label, entries), len(stored) - len(weights)


def _checked_entry(files: Files, key: str, item: Any, places: Any, blobs: dict[str, Blob]) -> StackedTensor:
    try:
        return _entry(files, key, item, places, blobs)
    except UserError:
        raise
    except Exception as error:  # Objects of a damaged pickle can lack any attribute, or hold anything.
        name = f"{files.label}/{METADATA}"
        raise UserError(f"{name}: {shown(key)}: not the metadata of a checkpoint: {reason(error)}") from None


def _entry(files: Files, key: str, item: Any, places: Any, blobs: dict[str, Blob]) -> StackedTensor:
    parts = []
    for chunk in item.chunks:
        start, size = _numbers(files, key, chunk.offsets), _numbers(files, key, chunk.sizes)
        storage = places.get((key, start))
        if storage is None:
            raise UserError(
                f"{files.label}: {key}: its part at {start} is missing; the checkpoint is damaged"
            )
        if getattr(storage, "transform_descriptors", None):
            raise UserError(f"{files.label}: {key} is stored compressed, which is not supported")
        blob = blobs.get(storage.relative_path)
        if blob is None:
            raise UserError(f"{files.label}/{storage.relative_path}: no such file; {key} is partly in it")
        if type(storage.offset) is not int or type(storage.length) is not int:
            raise UserError(f"{files.label}: {key}: its place in the file is not a number; it is damaged")
        needed = math.prod(size) * item.properties.dtype.itemsize
        region = blob.part(storage.offset, storage.length, f"{blob.name}: {key}{list(start)}")
        if needed > region.size:
            raise UserError(
                f"{region.name} has {region.size:,} bytes, {size} needs {needed:,}; it is damaged"
            )
        parts.append(Part(start, size, _opener(region, size, item.properties.dtype), (0,) * len(size)))
    shape = _numbers(files, key, item.size)
    return StackedTensor(key, shape, item.properties.dtype, tuple(parts))


def _numbers(files: Files, key: str, values: Any) -> Shape:
    numbers = tuple(values)
    if not all(type(number) is int for number in numbers):
        raise UserError(f"{files.label}: {key}: its shape is not made of numbers; the checkpoint is damaged")
    return numbers


def _opener(region: Blob, size: Shape, dtype: Any) -> Callable[[], Stored]:
    return partial(_open_item, region, size, dtype)


def _open_item(region: Blob, size: Shape, dtype: Any) -> Stored:
    """The tensor in one item; torch.save may have kept fewer leading axes of 1 than the entry has.

    megatron-core 0.9 saved each half of linear_fc1 with both halves' storage, so the offset matters.
    """
    stored = read_torch_file(region)
    if not isinstance(stored, Stored):
        raise UserError(f"{region.name} holds no tensor; the checkpoint is damaged")
    missing = len(size) - len(stored.shape)
    if missing > 0 and size[:missing] == (1,) * missing:
        stored = replace(stored, shape=(1,) * missing + stored.shape, strides=(0,) * missing + stored.strides)
    if stored.shape != size or stored.dtype != dtype:
        raise UserError(
            f"{region.name} is {stored.shape} {stored.dtype}, the metadata says {size} {dtype}; it is damaged"
        )
    return stored
