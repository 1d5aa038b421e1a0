"""Reads files of torch.save without loading them: which tensors they hold, and where the numbers are.

torch.load can neither leave the numbers in place inside a tar nor open the files that NeMo wrote with
Transformer Engine (their ``_extra_state`` is a pickled BytesIO, which weights_only refuses). So the archive's
index is read with zipfile, and its pickle with an allow-list of tensors and plain containers; extra state
becomes a placeholder, its bytes are never read.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import torch

from recipes.checkpoint.formats.blob import Blob, BlobReader
from recipes.checkpoint.formats.lazy import Stored
from recipes.checkpoint.formats.safety import PlainUnpickler, reason
from recipes.errors import UserError

LARGEST_PICKLE = 256_000_000
LOCAL_HEADER = 30
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Opaque:
    """Placeholder for an object whose content is not read."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_torch_file(blob: Blob) -> Any:
    """What was saved, with a :class:`Stored` for every tensor.

    Raises:
        UserError: it is damaged, not from torch.save, or holds anything but tensors and plain data.
    """
    try:
        records = _records(blob)
        (pickled,) = [name for name in records if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        order = records.get(f"{folder}byteorder")
        if order is not None and order[0].read(16) != b"little":
            raise ValueError("it was written on a big-endian machine")
        return _Reader(records[pickled][0].read(LARGEST_PICKLE), records, folder).load()
    except UserError:
        raise
    except Exception as error:  # A damaged archive or pickle can raise nearly anything.
        raise UserError(f"{blob.name}: no readable file of torch.save: {reason(error)}") from None


def _records(blob: Blob) -> dict[str, tuple[Blob, int]]:
    """Name of each record -> where it is, and its checksum."""
    found: dict[str, tuple[Blob, int]] = {}
    with zipfile.ZipFile(io.BufferedReader(BlobReader(blob), 1 << 16)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError(f"its record {entry.filename!r} is compressed")
            if entry.filename in found:
                raise ValueError(f"its record {entry.filename!r} appears twice")
            header = blob.part(entry.header_offset, LOCAL_HEADER).read(LOCAL_HEADER)
            if header[:4] != b"PK\x03\x04":
                raise ValueError(f"its record {entry.filename!r} is not where its index says")
            skipped = LOCAL_HEADER + int.from_bytes(header[26:28], "little")
            skipped += int.from_bytes(header[28:30], "little")
            record = blob.part(
                entry.header_offset + skipped, entry.file_size, f"{blob.name}:{entry.filename}"
            )
            found[entry.filename] = record, entry.CRC
    return found


class _Reader(PlainUnpickler):
    """data.pkl of a torch file."""

    def __init__(self, content: bytes, records: dict[str, tuple[Blob, int]], folder: str) -> None:
        super().__init__(io.BytesIO(content))
        self._stored = records
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("_io", "BytesIO"): Opaque,
            ("_codecs", "encode"): Opaque,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[Blob, int, torch.dtype]:
        kind, dtype, key, _device, elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("it refers to objects outside itself")
        record, checksum = self._stored[f"{self._folder}data/{key}"]
        if type(elements) is not int or elements * dtype.itemsize != record.size:
            raise pickle.UnpicklingError(f"{record.name} does not have the size that it should have")
        return record, checksum, dtype


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Stored:
    record, checksum, dtype = storage
    shape, strides = tuple(shape), tuple(strides)
    if not all(type(number) is int for number in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise pickle.UnpicklingError(f"{record.name}: a tensor's shape or strides are not numbers")
    return Stored(record, dtype, shape, strides, offset, crc32=checksum)


def _parameter(data: Any, *_: Any) -> Any:
    return data
