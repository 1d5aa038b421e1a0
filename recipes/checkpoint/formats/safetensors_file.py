"""The safetensors format, with bounds: 8 bytes of length, a JSON header, the numbers one after the other.

The header is read here and not by the library's ``safe_open``, which accepts duplicate names and unknown
keys and maps files into memory: if one is cut off later, the process ends with SIGBUS, and every page that
was read counts as the process's memory until the file is closed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import torch

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.lazy import Stored, row_major
from recipes.console import shown
from recipes.errors import UserError
from recipes.families.tensors import Shape

LARGEST_HEADER = 100_000_000  # The format's own limit.
MOST_AXES = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def header_bytes(entries: Iterable[tuple[str, torch.dtype, Shape]]) -> bytes:
    """The header of a file that holds these tensors in this order, without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The numbers are aligned.
    return len(text).to_bytes(8, "little") + text


def read_safetensors(blob: Blob) -> dict[str, Stored]:
    """Name -> where its numbers are. Only the header is read.

    Raises:
        UserError: the file is cut off, or its header is not one: too long, no JSON, types that are unknown,
            tensors that overlap, leave gaps or lie outside.
    """
    length = int.from_bytes(blob.part(0, 8).read(8), "little")
    if length > min(LARGEST_HEADER, blob.size - 8):
        raise UserError(f"{blob.name}: a header of {length:,} bytes is impossible; the file is damaged")
    text = blob.part(8, length).read(LARGEST_HEADER)
    header = parse_json(text, blob.name)
    header.pop("__metadata__", None)
    numbers = blob.part(8 + length, blob.size - 8 - length)
    found = {name: _stored(numbers, name, entry) for name, entry in header.items()}
    end = 0
    for name, (start, stop) in sorted(
        ((name, entry["data_offsets"]) for name, entry in header.items()), key=lambda item: item[1]
    ):
        if start != end:
            what = "overlaps another tensor" if start < end else "leaves a gap before it"
            raise UserError(f"{blob.name}: {shown(name)} {what}; the file is damaged")
        end = stop
    if end != numbers.size:
        raise UserError(
            f"{blob.name} holds {numbers.size:,} bytes of numbers, its header describes {end:,}; "
            "the file is damaged"
        )
    return found


def _stored(numbers: Blob, name: str, entry: Any) -> Stored:
    where = f"{numbers.name}: {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where} is described by {shown(entry)}; the file is damaged")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > MOST_AXES or not _are_counts(offsets) or len(offsets) != 2:
        raise UserError(
            f"{where}: shape {shown(shape)} at {shown(offsets)} is impossible; the file is damaged"
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise UserError(
            f"{where} is stored as {shown(entry['dtype'])}, which is not supported: quantised weights must "
            "be turned into bf16 or fp32 first"
        )
    dtype = DTYPES[entry["dtype"]]
    start, end = offsets
    if end - start != math.prod(shape) * dtype.itemsize or end > numbers.size:
        raise UserError(
            f"{where}: {entry['dtype']} of shape {shown(shape)} does not fit its offsets {shown(offsets)} in "
            f"{numbers.size:,} bytes; the file is damaged or cut off"
        )
    part = numbers.part(start, end - start, f"{numbers.name}:{shown(name)}")
    return Stored(part, dtype, tuple(shape), row_major(shape))


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """A JSON object from a stranger.

    Raises:
        UserError: it is none, or names a key twice.
    """
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is not readable as JSON: {shown(str(error))}") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} holds no JSON object")
    return content


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key appears twice")
    return content
