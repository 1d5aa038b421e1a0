"""Finds out in which format a folder's weights are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes.checkpoint.formats.containers import Files
from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.rank_files import WEIGHTS, rank_blobs, rank_tensors
from recipes.checkpoint.formats.torch_dist import METADATA, read_common, torch_dist_tensors
from recipes.checkpoint.formats.zarr import is_zarr, zarr_tensors
from recipes.errors import UserError
from recipes.families.tensors import OUTPUT_LAYER, WORD_EMBEDDINGS


@dataclass(frozen=True)
class Weights:
    """Tensors by canonical name, and how they are stored."""

    layout: str
    """In words."""
    tensors: dict[str, LazyTensor]
    files: dict[str, int]
    """Name -> bytes."""
    skipped: int


def distributed_weights(files: Files, prefix: str = "") -> Weights | None:
    """The weights of a distributed checkpoint; None if the folder holds none.

    ``prefix``: what the keys of the wanted tensors have before a weight's.

    Raises:
        UserError: hostile or damaged.
    """
    if files.find(METADATA) is not None:
        read_common(files)  # Not needed here, but anything but plain data in it marks a hostile file.
        tensors, skipped = torch_dist_tensors(files, prefix)
        sizes = {
            name: blob.size
            for name in files.names()
            if name.endswith(".distcp") and (blob := files.find(name)) is not None
        }
        return Weights("torch_dist weights", tensors, sizes, skipped)
    if is_zarr(files):
        read_common(files)
        tensors, skipped = zarr_tensors(files)
        sizes = {name: _bytes_below(files.folder(name)) for name in files.names() if files.find(name) is None}
        return Weights("zarr weights", tensors, sizes, skipped)
    return None


def plain_weights(files: Files, tied: bool) -> Weights | None:
    """The weights of a folder with rank files; None if there are none.

    ``tied``: the last pipeline stage's output layer is a copy of the first one's embedding.

    Raises:
        UserError: hostile or damaged.
    """
    blobs = rank_blobs(files)
    if not blobs:
        return None
    tensors, skipped = rank_tensors(files)
    stages, ranks = (1 + max(numbers) for numbers in zip(*blobs, strict=True))
    if tied and WORD_EMBEDDINGS in tensors:
        for name in (OUTPUT_LAYER, "word_embeddings.weight"):
            if (copy := tensors.pop(name, None)) is not None:
                if (copy.shape, copy.dtype) != (
                    tensors[WORD_EMBEDDINGS].shape,
                    tensors[WORD_EMBEDDINGS].dtype,
                ):
                    raise UserError(f"{files.label}: {name} is {copy.shape}, not a copy of the embedding")
                tensors[WORD_EMBEDDINGS] = replace(tensors[WORD_EMBEDDINGS], copies=(copy,))
    if len(blobs) == 1:
        layout = f"weights in one {WEIGHTS}"
    else:
        layout = f"weights of {ranks} tensor-parallel ranks"
        layout += f" x {stages} pipeline stages" if stages > 1 else ""
    return Weights(layout, tensors, {blob.name: blob.size for blob in blobs.values()}, skipped)


def _bytes_below(files: Files) -> int:
    return sum(blob.size for name in files.names() if (blob := files.find(name)) is not None)
