"""Writes a torch_dist checkpoint tensor by tensor, in one process and with one tensor in memory at a time.

megatron-core's own writer needs the whole state at once, and its metadata names classes that classic NeMo
(megatron-core 0.9) does not have. The metadata written here names only torch's own classes.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.safety import check_metadata
from recipes.errors import UserError
from recipes.files import atomic_write

SHARD_NAME = "__0_0.distcp"
EXTRA_SHARD_NAME = "__0_1.distcp"  # megatron-core writes one file per rank here, __<rank>_0.distcp.
METADATA_JSON = json.dumps(
    {
        "sharded_backend": "torch_dist",
        "sharded_backend_version": 1,
        "common_backend": "torch",
        "common_backend_version": 1,
    }
)
# Large tensors are cut into pieces of this size, so that neither reader nor writer needs more memory.
PIECE_BYTES = 256 * 2**20


class TorchDistWriter:
    """Collects what ``.metadata`` must say while items go to ``stream``, the ``__0_0.distcp`` file."""

    def __init__(self, stream: BinaryIO, shard_name: str = SHARD_NAME) -> None:
        self.stream, self.shard_name = stream, shard_name
        self.position = 0
        self.items: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        self.places: dict[MetadataIndex, _StorageInfo] = {}

    def add_tensor(
        self,
        key: str,
        tensor: LazyTensor,
        dtype: torch.dtype,
        place: tuple[int, ...] = (),
        stack: tuple[int, ...] = (),
    ) -> None:
        """Writes a tensor as ``dtype``; with ``place`` it is one of a ``stack`` of layers or experts.

        Raises:
            UserError: it cannot be read, or its shape or type differs from that of others in the stack.
        """
        size = torch.Size((*stack, *tensor.shape))
        item = self.items.setdefault(key, TensorStorageMetadata(TensorProperties(dtype=dtype), size, []))
        assert isinstance(item, TensorStorageMetadata)
        if item.properties.dtype != dtype or item.size != size:
            raise UserError(f"{tensor.name} has another shape or type than that of other layers")
        for start, rows in _row_blocks(tensor.shape, dtype):
            origin = (start, *(0 for _ in tensor.shape[1:])) if tensor.shape else ()
            block = tensor.box(origin, (rows, *tensor.shape[1:])) if tensor.shape else tensor
            offsets = torch.Size((*place, *origin))
            shape = torch.Size((*(1 for _ in place), *block.shape))
            item.chunks.append(ChunkStorageMetadata(offsets=offsets, sizes=shape))
            numbers = block.load().to(dtype)
            self._write(MetadataIndex(key, offsets), numbers.view(shape))

    def add_extra_state(self, key: str) -> None:
        """What Transformer Engine without FP8 leaves in a checkpoint: a stream that holds None."""
        nothing, item = io.BytesIO(), io.BytesIO()
        torch.save(None, nothing)
        torch.save([nothing], item)
        self.items[key] = BytesStorageMetadata()
        self._place(MetadataIndex(key), item.getvalue())

    def _write(self, index: MetadataIndex, tensor: Tensor) -> None:
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        self._place(index, buffer.getbuffer())

    def _place(self, index: MetadataIndex, payload: bytes | memoryview) -> None:
        self.stream.write(payload)
        self.places[index] = _StorageInfo(self.shard_name, self.position, len(payload))
        self.position += len(payload)

    def metadata(self) -> bytes:
        """The content of ``.metadata``."""
        return dump_metadata(Metadata(dict(self.items), storage_data=self.places))


def _row_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """``(first row, rows)`` of pieces of at most PIECE_BYTES."""
    if not shape:
        yield 0, 1
        return
    rows = max(1, PIECE_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))
    for start in range(0, shape[0], rows):
        yield start, min(rows, shape[0] - start)


def dump_metadata(metadata: Metadata) -> bytes:
    """``.metadata`` with torch's own classes only, as megatron-core 0.9 wrote and reads it."""
    plain = Metadata(
        state_dict_metadata=metadata.state_dict_metadata,
        planner_data={key: (key,) for key in metadata.state_dict_metadata},
        storage_data=metadata.storage_data,
    )
    # megatron-core looks up the shapes of flattened tensors here; none is flattened.
    plain.mcore_data = {  # type: ignore[attr-defined]
        key: {}
        for key, item in metadata.state_dict_metadata.items()
        if isinstance(item, TensorStorageMetadata)
    }
    return pickle.dumps(plain, protocol=4)


def make_classic(directory: Path, extra_states: Iterable[str]) -> None:
    """Rewrites what megatron-core's own writer wrote so that classic NeMo can read it.

    Its metadata names classes newer than megatron-core 0.9, and without Transformer Engine it lacks the extra
    states that a model made of Transformer Engine's modules expects.
    """
    metadata = check_metadata(directory)
    missing = [key for key in extra_states if key not in metadata.state_dict_metadata]
    with (directory / EXTRA_SHARD_NAME).open("xb") as stream:
        writer = TorchDistWriter(stream, EXTRA_SHARD_NAME)
        for key in missing:
            writer.add_extra_state(key)
    metadata.state_dict_metadata.update(writer.items)
    metadata.storage_data.update(writer.places)
    with atomic_write(directory / ".metadata") as file:
        file.write(dump_metadata(metadata))


def extra_state_keys(prefix: str, layers: int) -> list[str]:
    """What Transformer Engine's modules of the Llama line expect in a checkpoint besides their weights."""
    modules = (
        "self_attention.core_attention",
        "self_attention.linear_proj",
        "self_attention.linear_qkv",
        "mlp.linear_fc1",
        "mlp.linear_fc2",
    )
    return [
        f"{prefix}decoder.layers.{module}._extra_state/shard_{layer}_{layers}"
        for layer in range(layers)
        for module in modules
    ]


def common_state(state: dict[str, Any] | None = None) -> bytes:
    """The content of ``common.pt``: plain data that all ranks share; empty in a checkpoint of weights."""
    buffer = io.BytesIO()
    torch.save(state or {}, buffer)
    return buffer.getvalue()
