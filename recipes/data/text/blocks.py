"""Cut JSONL inputs, compressed or not, into blocks that worker processes read as documents.

A plain file is cut into byte ranges, which workers read themselves. A compressed file cannot be read from the
middle, so it is unpacked here and the workers receive its lines.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.data.text.compression import DAMAGE, damaged, is_compressed, open_stream
from recipes.data.text.documents import BadLine, read_jsonl

BLOCK_BYTES = 4 << 20  # of text


@dataclass(frozen=True)
class Place:
    """A position in the inputs: the index of a file, and a byte offset in its (unpacked) text."""

    file: int
    offset: int


@dataclass(frozen=True)
class Block:
    """The documents of one file's lines that begin in the byte range [start, stop) of its text."""

    path: str
    start: int
    stop: int
    lines: bytes | None
    """The text itself, in whole lines; None if the worker reads it from the file."""
    then: Place
    """Where the next block begins."""
    is_last: bool
    """Whether the file ends with it."""


def cut(paths: Sequence[str | Path], sizes: Sequence[int], begin: Place, size: int) -> Iterator[Block]:
    """The blocks of all files from `begin` on, in order.

    Args:
        paths: the inputs.
        sizes: their sizes on disk in bytes.
        begin: the `then` of an earlier block, or the start of the first file.
        size: bytes of text in a block.

    Raises:
        UserError: a compressed file is damaged.
    """
    for number in range(begin.file, len(paths)):
        start = begin.offset if number == begin.file else 0
        path = paths[number]
        if is_compressed(path):
            yield from _cut_lines(path, number, start, size)
            continue
        for at in range(start, sizes[number], size):
            stop = min(at + size, sizes[number])
            last = stop == sizes[number]
            then = Place(number + 1, 0) if last else Place(number, stop)
            yield Block(str(path), at, stop, None, then, last)


def _cut_lines(path: str | Path, number: int, start: int, size: int) -> Iterator[Block]:
    offset, lines = start, b""
    try:
        with open_stream(path) as stream:
            skip = start
            while skip and (passed := stream.read(min(skip, 1 << 20))):
                skip -= len(passed)
            lines = stream.read(size) + stream.readline()
            while True:
                following = stream.read(size) + stream.readline()
                stop = offset + len(lines)
                then = Place(number, stop) if following else Place(number + 1, 0)
                yield Block(str(path), offset, stop, lines, then, not following)
                if not following:
                    return
                offset, lines = stop, following
    except DAMAGE as error:
        raise damaged(path, error) from None


def documents(block: Block, text_key: str) -> Iterator[str]:
    """The NFC texts of a block's documents.

    Raises:
        UserError: a line is not a document; the message names file and line.
    """
    try:
        if block.lines is not None:
            yield from read_jsonl(io.BytesIO(block.lines), text_key, first_offset=block.start)
            return
        with Path(block.path).open("rb") as stream:
            yield from read_jsonl(stream, text_key, block.start, block.stop)
    except BadLine as bad:
        raise bad.at(block.path) from None
