"""Byte ranges of files: a whole file, or a member of an uncompressed tar that is read in place."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.errors import UserError


@dataclass(frozen=True)
class Blob:
    """``size`` bytes of the file ``path`` from ``start`` on; ``name`` is how messages call them."""

    path: Path
    start: int
    size: int
    name: str

    def part(self, offset: int, size: int, name: str = "") -> Blob:
        """Some of these bytes.

        Raises:
            UserError: they reach beyond the end, so the file was cut off.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise UserError(
                f"{self.name}: {size:,} bytes at {offset:,} are asked for, it has {self.size:,}: damaged"
            )
        return replace(self, start=self.start + offset, size=size, name=name or self.name)

    def read(self, limit: int) -> bytes:
        """The whole content; no sound file of its kind is larger than ``limit`` bytes.

        Raises:
            UserError: it is larger, cut off or unreadable.
        """
        if self.size > limit:
            raise UserError(f"{self.name} has {self.size:,} bytes; no such file has more than {limit:,}")
        content = bytearray(self.size)
        self.read_into(memoryview(content))
        return bytes(content)

    def read_into(self, buffer: memoryview, offset: int = 0) -> None:
        """Fills ``buffer`` with the bytes from ``offset`` on.

        Raises:
            UserError: the file is cut off or cannot be read.
        """
        if offset + len(buffer) > self.size:
            raise UserError(f"{self.name} is cut off; it is damaged")
        try:
            # Opened for every read: a checkpoint can have more files than a process may hold open.
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start + offset)
                done = 0
                while done < len(buffer):
                    count = file.readinto(buffer[done:])
                    if not count:
                        raise UserError(f"{self.name} is cut off; it is damaged")
                    done += count
        except FileNotFoundError:
            raise UserError(f"{self.name}: was deleted while it was being read") from None
        except OSError as error:
            raise UserError(f"{self.name}: cannot be read: {error.strerror}") from None


class BlobReader(io.RawIOBase):
    """A blob as a seekable file object, for libraries that read from one."""

    def __init__(self, blob: Blob) -> None:
        self._blob, self._place = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._blob.size}[whence]
        if base + offset < 0:
            raise ValueError("a negative place in a file")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._blob.size - self._place))
        self._blob.read_into(memoryview(buffer)[:count], self._place)
        self._place += count
        return count
