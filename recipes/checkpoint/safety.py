"""Checks a distributed checkpoint before it is read: a file from a stranger must not run code.

PyTorch unpickles ``.metadata`` without restriction. Here the pickle is read first with an allow-list of the
classes that such a file consists of; only when that succeeds is the file handed on. ``common.pt`` is read by
torch.load with weights_only=True, PyTorch's own allow-list.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from recipes.errors import UserError

# What torch 2.4 to 2.13 and megatron-core 0.9 to 0.16 put into .metadata.
ALLOWED_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch.distributed.checkpoint.planner": {
        "BytesIOWriteData",
        "LoadPlan",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
        "WriteItemType",
    },
    "megatron.core.dist_checkpointing.strategies.torch": {"MCoreMetadata", "MCoreSavePlan"},
    "torch": {
        "Size",
        "bfloat16",
        "bool",
        "float16",
        "float32",
        "float64",
        "int16",
        "int32",
        "int64",
        "int8",
        "uint8",
    },
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
    "collections": {"OrderedDict"},
    "builtins": {"set", "frozenset"},
}


def _enum_member(cls: Any, name: str) -> Any:
    """What ``getattr`` may do in such a pickle: Python 3.11.0 to 3.11.3 write the member of an Enum so."""
    if isinstance(cls, type) and issubclass(cls, Enum) and name in cls.__members__:
        return cls[name]
    raise pickle.UnpicklingError(f"it asks for the attribute {shown(name)} of {shown(cls)}")


class PlainUnpickler(pickle._Unpickler):
    """Reads a pickle with an allow-list that ``find_class`` is.

    Python's own implementation, as torch's weights_only has one: the C one allocates its memo as an array, so
    that one changed byte in a file can ask for 30 GB.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def _build(self) -> None:
        target = self.stack[-2]  # type: ignore[attr-defined]
        # A state for a class would change that class for the whole process.
        if isinstance(target, type | Enum) or callable(target):
            raise pickle.UnpicklingError(f"it changes {shown(target)}")
        self.load_build()  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = _build  # type: ignore[assignment]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")


class _MetadataUnpickler(PlainUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _enum_member
        if name not in ALLOWED_CLASSES.get(module, set()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        if module.startswith("megatron."):
            return _MegatronRecord
        return super(PlainUnpickler, self).find_class(module, name)


class _MegatronRecord:
    """MCoreMetadata, MCoreSavePlan: no methods. Importing megatron-core for them would take seconds."""


def check_metadata(directory: Path) -> Any:
    """The content of ``directory/.metadata``, read with the allow-list.

    Raises:
        UserError: the file is missing, damaged, or names anything else.
    """
    path = directory / ".metadata"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; this is no whole distributed checkpoint") from None
    return parse_metadata(data, str(path), sum(file.stat().st_size for file in directory.glob("*.distcp")))


def parse_metadata(data: bytes, name: str, present: int) -> Any:
    """The content of a ``.metadata`` called ``name``, whose .distcp files have ``present`` bytes together.

    Raises:
        UserError: it is damaged, or names anything but what such files consist of.
    """
    try:
        metadata = _MetadataUnpickler(io.BytesIO(data)).load()
        declared = sum(map(_stored_bytes, metadata.state_dict_metadata.values()))
        for storage in metadata.storage_data.values():
            if Path(storage.relative_path).name != storage.relative_path:
                raise ValueError(f"{shown(str(storage.relative_path))} lies outside of it")
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise UserError(f"{name}: not the metadata of a checkpoint: {reason(error)}") from None
    # Before anybody allocates what it declares.
    if declared > present:
        raise UserError(
            f"{name}: its tensors have {declared:,} bytes, its files only {present:,}; it is damaged"
        )
    return metadata


def _stored_bytes(item: Any) -> int:
    """The size of one item: a tensor's shape and its chunks' shapes must agree."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata

    if isinstance(item, BytesStorageMetadata):
        return 0
    if not isinstance(item, TensorStorageMetadata):
        raise ValueError(f"it lists a {type(item).__name__}")
    elements = sum(math.prod(chunk.sizes) for chunk in item.chunks)
    if math.prod(item.size) != elements or any(side < 0 for chunk in item.chunks for side in chunk.sizes):
        raise ValueError(f"the parts of a tensor of shape {tuple(item.size)} have {elements} elements")
    return int(elements * item.properties.dtype.itemsize)


@contextmanager
def only_plain_data() -> Iterator[None]:
    """While it lasts, every torch.load in this process takes tensors and plain containers only.

    megatron-core and torch read the objects inside of a .distcp with weights_only=False.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def reason(error: BaseException) -> str:
    """One short line for an exception of megatron-core's or torch's."""
    # What a rank raised, inside of what torch's checkpoint code makes of it (which is no Exception).
    for inner in getattr(error, "failures", {}).values():
        return reason(inner[0])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) < 300 else text[:300] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 60, 60


def shown(value: Any) -> str:
    """A value from a file for a message: short, however deep or long it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # An integer of more digits than Python prints.
        return f"a huge {type(value).__name__}"


def load_plain(path: Path) -> Any:
    """A torch file of tensors and plain containers, nothing executed.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; this is no whole checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_plain(data, str(path))


def parse_plain(data: bytes, name: str) -> Any:
    """The content of such a file called ``name``.

    Raises:
        UserError: it is damaged, or holds anything else.
    """
    import torch

    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch explains at length how to run the file all the same; what it names says more.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it names {named[1]}" if named else reason(error)
        if "Weights only load failed" in why:
            why = "damaged, or no file of torch.save"
        raise UserError(f"{name}: not readable as plain data: {why}") from None
