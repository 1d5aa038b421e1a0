"""Write one shard of JSON lines, compressed or not; it appears whole or not at all."""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

from recipes.data.download.rows import Row
from recipes.files import atomic_write

Compression = Literal["gz", "zst"]


def shard_name(source: str, number: int, compress: Compression | None) -> str:
    """The name of shard `number`, counted from 0."""
    return f"{source}-{number:05}.jsonl{f'.{compress}' if compress else ''}"


def to_line(row: Row, source: str) -> bytes:
    """A document as a line of JSON, with its text unchanged."""
    record = {"text": row.text, "id": row.id, "source": source, **row.extra}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


class ShardFile:
    """A shard that is being written.

    Args:
        raw: the file.
        stream: takes the lines: the file, or a compressor in front of it.
    """

    def __init__(self, raw: BinaryIO, stream: BinaryIO) -> None:
        self._raw, self._stream = raw, stream
        self.size = 0
        self.sha256 = ""

    def write(self, line: bytes) -> None:
        self._stream.write(line)

    def finish(self) -> None:
        """Complete the file, and set `size` and `sha256` from its bytes."""
        if self._stream is not self._raw:
            self._stream.close()
        self._raw.seek(0)
        digest = hashlib.sha256()
        while block := self._raw.read(1 << 20):
            digest.update(block)
        self.sha256, self.size = digest.hexdigest(), self._raw.tell()


@contextlib.contextmanager
def open_shard(path: Path, compress: Compression | None) -> Iterator[ShardFile]:
    """A shard that appears under its name when the block, which must call `finish`, ends.

    The same lines give the same bytes: neither time nor name is stored.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_write(path) as raw:
        if compress == "gz":
            stream = cast(BinaryIO, gzip.GzipFile("", "wb", fileobj=raw, compresslevel=6, mtime=0))
        elif compress == "zst":
            import pyarrow

            # The file stays open when the compressor closes: it is read back for its checksum.
            sink = pyarrow.PythonFile(_Unclosed(raw), mode="w")
            stream = cast(BinaryIO, pyarrow.CompressedOutputStream(sink, "zstd"))
        else:
            stream = raw
        yield ShardFile(raw, stream)


class _Unclosed:
    """A file that ignores `close`, except that it is flushed."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.flush()
