"""Tensors that are known by name, shape and type, and read only when they are needed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.formats.staging import PIECE, Staging
from recipes.errors import UserError

Shape = tuple[int, ...]
STAGING = Staging()
MOST_PARTS = 4096  # Of one tensor of one layer; 64 tensor-parallel ranks have 128.


@dataclass(frozen=True)
class Stored:
    """A strided tensor in a blob, or (``blob`` None) the number ``fill`` repeated."""

    blob: Blob | None
    dtype: torch.dtype
    shape: Shape
    strides: Shape
    """In elements, as torch counts them."""
    offset: int = 0
    """Of the first element, in elements."""
    fill: float = 0.0
    crc32: int | None = None
    """Of the whole blob, as its file records it."""

    def __post_init__(self) -> None:
        if self.blob is None:
            return
        if min((*self.shape, *self.strides, self.offset), default=0) < 0:
            raise UserError(f"{self.blob.name}: a tensor of shape {self.shape} is impossible; it is damaged")
        # A stride of 0 would make a huge tensor of a small file; no real checkpoint has one.
        elements = max(math.prod(self.shape), self.offset + self._extent())
        if elements * self.dtype.itemsize > self.blob.size:
            raise UserError(
                f"{self.blob.name}: a tensor of shape {self.shape} needs more than its "
                f"{self.blob.size:,} bytes; it is damaged"
            )

    def _extent(self) -> int:
        """Elements from the first to the last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    def box(self, start: Sequence[int], size: Sequence[int]) -> Stored:
        """The part of ``size`` from ``start`` on; the caller stays within the shape."""
        offset = self.offset + sum(place * stride for place, stride in zip(start, self.strides, strict=True))
        whole = tuple(size) == self.shape
        return replace(
            self, shape=tuple(size), offset=offset, crc32=self.crc32 if whole and offset == 0 else None
        )

    def read_into(self, out: Tensor, verify: bool = False) -> None:
        """Fills ``out``, of this shape and any type and device.

        Raises:
            UserError: the file is cut off; with ``verify``, its recorded checksum differs.
        """
        if self.blob is None:
            out.fill_(self.fill)
            return
        extent = self._extent()
        contiguous = extent == math.prod(self.shape) and self._row_major()
        check = verify and self.crc32 is not None and extent * self.dtype.itemsize == self.blob.size
        checksum = 0
        if contiguous and out.dtype == self.dtype and out.is_contiguous() and out.device.type == "cpu":
            buffer = memoryview(out.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            self._read(buffer)
            checksum = zlib.crc32(buffer) if check else 0
        else:
            in_one = check and not contiguous  # The checksum is that of all bytes, gaps included.
            for piece, place in [(self, out)] if in_one else self._pieces(out):
                flat = STAGING.buffer(piece._extent() * self.dtype.itemsize, out.device)
                buffer = memoryview(flat.numpy())  # type: ignore[arg-type]
                piece._read(buffer)
                checksum = zlib.crc32(buffer, checksum) if check else 0
                STAGING.copy(flat, place, self.dtype, piece.strides)
        if check and checksum != self.crc32:
            raise UserError(f"{self.blob.name} does not have the recorded CRC-32; it is damaged")

    def _read(self, buffer: memoryview) -> None:
        """All bytes from the first element to the last."""
        if len(buffer):
            assert self.blob is not None
            self.blob.read_into(buffer, self.offset * self.dtype.itemsize)

    def _pieces(self, out: Tensor) -> Iterator[tuple[Stored, Tensor]]:
        """Runs of rows of at most PIECE bytes with their places in ``out``; all in one if rows interleave."""
        axis = next((axis for axis, size in enumerate(self.shape) if size > 1), None)
        if axis is None or self._extent() * self.dtype.itemsize <= PIECE:
            yield self, out
            return
        stride, size = self.strides[axis], self.shape[axis]
        if stride < self._extent() - (size - 1) * stride:
            yield self, out
            return
        rows = max(1, PIECE // (stride * self.dtype.itemsize))
        zeros = (0,) * len(self.shape[axis + 1 :])
        for start in range(0, size, rows):
            count = min(rows, size - start)
            shape = (*self.shape[:axis], count, *self.shape[axis + 1 :])
            piece = self.box((*(0,) * axis, start, *zeros), shape)
            yield from piece._pieces(out.narrow(axis, start, count))

    def _row_major(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


def row_major(shape: Sequence[int]) -> Shape:
    """The strides of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Part:
    """A box of a tensor, and where its numbers are."""

    start: Shape
    """Offset in the tensor."""
    size: Shape
    open: Callable[[], Stored]
    """Returns the stored tensor that holds the box; it may have further leading axes."""
    inside: Shape
    """Offset of the box in the stored tensor."""

    def read_into(self, out: Tensor, verify: bool) -> None:
        stored = self.open()
        leading = len(self.inside) - len(self.size)
        box = stored.box(self.inside, (1,) * leading + self.size)
        flat = replace(box, shape=box.shape[leading:], strides=box.strides[leading:])
        flat.read_into(out, verify)


@dataclass(frozen=True)
class LazyTensor:
    """A stored tensor. ``load`` reads its bytes and nothing else."""

    name: str
    shape: Shape
    dtype: torch.dtype
    parts: tuple[Part, ...]
    copies: tuple[LazyTensor, ...] = ()
    """The same tensor as other ranks stored it; they must agree."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def load(self, verify: bool = False) -> Tensor:
        """The numbers, in newly allocated memory.

        Raises:
            UserError: the file is cut off, or copies differ; with ``verify``, a recorded checksum differs.
        """
        out = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        self.read_into(out, verify)
        return out

    def read_into(self, out: Tensor, verify: bool = False) -> None:
        """Fills ``out``, of this shape and any type and device, as :meth:`load`."""
        for part in self.parts:
            box = tuple(slice(start, start + size) for start, size in zip(part.start, part.size, strict=True))
            part.read_into(out[box] if part.size != self.shape else out, verify)
        for copy in self.copies:
            other = copy.load(verify).to(out.device, out.dtype)
            if not torch.equal(other.nan_to_num(), out.nan_to_num()):
                raise UserError(f"{self.name}: the ranks stored different numbers; the checkpoint is damaged")

    def box(self, start: Sequence[int], size: Sequence[int]) -> LazyTensor:
        """The part of ``size`` from ``start`` on; its ``load`` reads no more than it needs."""
        parts = []
        for part in self.parts:
            low = tuple(max(a, b) for a, b in zip(part.start, start, strict=True))
            high = tuple(
                min(a + n, b + m) for a, n, b, m in zip(part.start, part.size, start, size, strict=True)
            )
            if any(a >= b for a, b in zip(low, high, strict=True)):
                continue
            leading = len(part.inside) - len(part.size)
            moved = tuple(a - b for a, b in zip(low, part.start, strict=True))
            inside = part.inside[:leading] + tuple(
                place + by for place, by in zip(part.inside[leading:], moved, strict=True)
            )
            parts.append(
                Part(
                    start=tuple(a - b for a, b in zip(low, start, strict=True)),
                    size=tuple(b - a for a, b in zip(low, high, strict=True)),
                    open=part.open,
                    inside=inside,
                )
            )
        copies = tuple(copy.box(start, size) for copy in self.copies)
        return replace(self, shape=tuple(size), parts=tuple(parts), copies=copies)

    def renamed(self, name: str) -> LazyTensor:
        return replace(self, name=name)


def whole(name: str, stored: Stored) -> LazyTensor:
    """A tensor that is stored in one piece."""
    origin = (0,) * len(stored.shape)
    return LazyTensor(name, stored.shape, stored.dtype, (Part(origin, stored.shape, lambda: stored, origin),))


def joined(name: str, pieces: Sequence[LazyTensor], axis: int) -> LazyTensor:
    """The pieces concatenated along ``axis``.

    Raises:
        UserError: they differ in type or along another axis.
    """
    first = pieces[0]
    parts: list[Part] = []
    length = 0
    for piece in pieces:
        others = [n for place, n in enumerate(piece.shape) if place != axis]
        if (
            axis >= len(piece.shape)
            or piece.dtype != first.dtype
            or others != [n for place, n in enumerate(first.shape) if place != axis]
        ):
            raise UserError(
                f"{name}: ranks stored {first.shape} {first.dtype} and {piece.shape} {piece.dtype}, "
                "which do not fit together"
            )
        for part in piece.parts:
            start = (*part.start[:axis], part.start[axis] + length, *part.start[axis + 1 :])
            parts.append(replace(part, start=start))
        length += piece.shape[axis]
    shape = (*first.shape[:axis], length, *first.shape[axis + 1 :])
    return LazyTensor(name, shape, first.dtype, tuple(parts))


def check_cover(name: str, shape: Shape, parts: Iterable[Part]) -> None:
    """Checks that the parts cover the tensor, each element exactly once.

    Raises:
        UserError: an element is missing or covered twice.
    """
    parts = list(parts)
    if len(parts) > MOST_PARTS:
        raise UserError(f"{name} is in {len(parts):,} parts, more than any layout makes; it is damaged")
    for part in parts:
        if len(part.size) != len(shape) or any(
            start < 0 or size < 1 or start + size > side
            for start, size, side in zip(part.start, part.size, shape, strict=True)
        ):
            raise UserError(f"{name}: a part {part.size} at {part.start} lies outside of its {shape}")
    if sum(math.prod(part.size) for part in parts) != math.prod(shape):
        raise UserError(
            f"{name}: its parts do not make up its shape {shape}; some are missing or there twice"
        )
    if len(parts) < 2:
        return
    starts = np.array([part.start for part in parts], dtype=np.int64)
    ends = starts + np.array([part.size for part in parts], dtype=np.int64)
    for place in range(1, len(parts)):
        meets = (starts[:place] < ends[place]) & (starts[place] < ends[:place])
        if meets.all(axis=1).any():
            raise UserError(f"{name}: two of its parts overlap; the checkpoint is damaged")
