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
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from recipes.console import shown
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
    """The only allowed use of ``getattr``: Python 3.11.0 to 3.11.3 pickle a member of an Enum with it."""
    if isinstance(cls, type) and issubclass(cls, Enum) and name in cls.__members__:
        return cls[name]
    raise pickle.UnpicklingError(f"it asks for the attribute {shown(name)} of {shown(cls)}")


_MOST_IN_A_KEY = 100
_LONGEST_INTEGER = 256


def _check_key(key: Any) -> None:
    """Refuses what would take forever to hash: 129 bytes make nested tuples of 2**60 elements.

    Real keys are names, and a name with a tensor's offset (a MetadataIndex).
    """
    todo, seen = [key], 0
    while todo:
        value = todo.pop()
        seen += 1
        if isinstance(value, tuple | frozenset):
            seen += len(value)
            todo += value if seen <= _MOST_IN_A_KEY else ()
        elif isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
            seen = _MOST_IN_A_KEY + 1
        elif not isinstance(value, type | Enum):
            todo += getattr(value, "__dict__", {}).values()
        if seen > _MOST_IN_A_KEY:
            raise pickle.UnpicklingError("a key in it has more parts than any name")


class PlainUnpickler(pickle._Unpickler):
    """Reads a pickle; ``find_class`` is its allow-list.

    In Python, as torch's weights_only is: the implementation in C allocates its memo as an array, so that one
    changed byte in a file can make it ask for 30 GB.
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


def _check_first(opcode: bytes, hashed: Callable[[list[Any]], Iterable[Any]]) -> None:
    """Makes an opcode check the keys that ``hashed`` finds on the stack before it hashes them."""
    proceed: Any = PlainUnpickler.dispatch[opcode[0]]

    def checked(self: Any) -> None:
        for key in hashed(self.stack):
            _check_key(key)
        proceed(self)

    PlainUnpickler.dispatch[opcode[0]] = checked


def _arguments(values: Iterable[Any], levels: int = 2) -> Iterator[Any]:
    """What a call may hash: set([a, b]), OrderedDict([[a, 1]]), an Enum's (a)."""
    for value in values:
        if isinstance(value, list) and levels:
            yield from _arguments(value, levels - 1)
        else:
            yield value


_check_first(pickle.SETITEM, lambda stack: stack[-2:-1])
for _opcode in (pickle.SETITEMS, pickle.DICT):
    _check_first(_opcode, lambda stack: stack[::2])
for _opcode in (pickle.ADDITEMS, pickle.FROZENSET):
    _check_first(_opcode, lambda stack: stack)
for _opcode in (pickle.REDUCE, pickle.NEWOBJ):
    _check_first(_opcode, lambda stack: _arguments(stack[-1]))
_check_first(pickle.NEWOBJ_EX, lambda stack: _arguments([*stack[-2], *stack[-1].values()]))
for _opcode in (pickle.INST, pickle.OBJ):
    _check_first(_opcode, lambda stack: _arguments(stack))


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
    """Stands for MCoreMetadata and MCoreSavePlan: importing megatron-core for them would take seconds."""


def check_metadata(directory: Path) -> Any:
    """The content of ``directory/.metadata``, read with the allow-list.

    Raises:
        UserError: the file is missing, damaged, or names anything else.
    """
    path = directory / ".metadata"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; this is not a whole distributed checkpoint") from None
    return parse_metadata(data, str(path), sum(file.stat().st_size for file in directory.glob("*.distcp")))


def parse_metadata(data: bytes, name: str, present: int) -> Any:
    """The content of a ``.metadata`` called ``name``, whose .distcp files have ``present`` bytes in total.

    Raises:
        UserError: it is damaged, or names anything but what such files consist of.
    """
    try:
        metadata = _MetadataUnpickler(io.BytesIO(data)).load()
        declared = sum(map(_stored_bytes, metadata.state_dict_metadata.values()))
        for index, storage in metadata.storage_data.items():
            # The index may have been changed after it became a key.
            if not all(type(number) is int for number in index.offset or ()) or type(index.fqn) is not str:
                raise ValueError("it lists a tensor without a name or a place")
            if Path(storage.relative_path).name != storage.relative_path:
                raise ValueError(f"{shown(str(storage.relative_path))} lies outside of it")
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise UserError(f"{name}: not the metadata of a checkpoint: {reason(error)}") from None
    # Before anything allocates what it declares.
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
    """In this context every torch.load of the process accepts only tensors and plain containers.

    megatron-core and torch read the objects in a .distcp with weights_only=False.
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
    """One short line for an exception from megatron-core or torch."""
    # torch's checkpoint code wraps what a rank raised.
    for inner in getattr(error, "failures", {}).values():
        return reason(inner[0])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) < 300 else text[:300] + "..."


def load_plain(path: Path) -> Any:
    """A torch file of tensors and plain containers, nothing executed.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; this is not a whole checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_plain(data, str(path))


class _Inert:
    """Stands for any object while only the keys of a pickle are checked."""

    def __init__(self, *arguments: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...


class _KeyChecker(PlainUnpickler):
    """Raises where PlainUnpickler refuses a key; torch's own reader checks everything else afterwards."""

    def find_class(self, module: str, name: str) -> Any:
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()

    def _build(self) -> None:
        self.stack.pop()  # type: ignore[attr-defined]

    dispatch: ClassVar = dict(PlainUnpickler.dispatch)
    dispatch[pickle.BUILD[0]] = _build  # type: ignore[assignment]


def _check_keys(data: bytes) -> None:
    """torch's weights_only does not check them, and would hash forever."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its record {shown(entry.filename)} is compressed")
            if entry.filename.endswith("data.pkl"):
                _KeyChecker(io.BytesIO(archive.read(entry))).load()


def parse_plain(data: bytes, name: str) -> Any:
    """The content of a torch file called ``name``.

    Raises:
        UserError: it is damaged, or holds anything else.
    """
    import torch

    try:
        _check_keys(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch explains at length how to load the file anyway; the name that it refuses says more.
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it names {named[1]}" if named else reason(error)
        if "Weights only load failed" in why or isinstance(error, zipfile.BadZipFile):
            why = "damaged, or no file of torch.save"
        raise UserError(f"{name}: not readable as plain data: {why}") from None
