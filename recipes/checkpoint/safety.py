"""Checks a distributed checkpoint before it is read: a file from a stranger must not run code.

PyTorch unpickles ``.metadata`` without restriction. Here the pickle is read first with an allow-list of the
classes that such a file consists of; only when that succeeds is the file handed on. ``common.pt`` is read by
torch.load with weights_only=True, PyTorch's own allow-list.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

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
    "torch": {"Size", "bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
    "collections": {"OrderedDict"},
    "builtins": {"set", "frozenset"},
}


class _AllowListUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ALLOWED_CLASSES.get(module, set()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside itself")


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
    try:
        return _AllowListUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # A damaged pickle can raise nearly anything.
        raise UserError(f"{path}: not the metadata of a checkpoint: {error}") from None


def load_plain(path: Path) -> Any:
    """A torch file of tensors and plain containers, nothing executed.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; this is no whole checkpoint") from None
    except Exception as error:
        raise UserError(f"{path}: not readable as plain data: {str(error).splitlines()[0]}") from None
