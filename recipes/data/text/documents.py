"""Read documents from JSONL and plain text files, compressed or not, one at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from recipes.data.text.compression import open_stream, reading, uncompressed_suffix, unreadable
from recipes.data.text.json_lines import BadRecord, parse_line, read_lines, text_of
from recipes.data.text.nfc import nfc
from recipes.errors import UserError


class BadLine(ValueError):
    """A line that is not a document; `offset` is where it starts in the (unpacked) file."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)  # both, so that it can be pickled by a worker process
        self.offset = offset
        self.reason = reason

    def at(self, path: str | Path) -> UserError:
        """The error as a message for the user, with the number of the line."""
        remaining, number = self.offset, 1
        with open_stream(path) as stream:
            while remaining > 0 and (block := stream.read(min(remaining, 1 << 20))):
                number += block.count(b"\n")
                remaining -= len(block)
        return UserError(f"{path}:{number}: {self.reason}")


def check_input(path: str | Path) -> int:
    """The size of an input file in bytes.

    Raises:
        UserError: it is missing, unreadable, empty or not a regular file.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file (inputs are read more than once)")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
    except OSError as error:
        raise unreadable(path, error) from error
    if size == 0:
        raise UserError(f"{path} is empty")
    return size


def read_jsonl(
    stream: BinaryIO, text_key: str, start: int = 0, stop: int | None = None, first_offset: int = 0
) -> Iterator[str]:
    """The documents of the lines that begin in the byte range [start, stop).

    Texts are NFC-normalised. Adjacent ranges together read every line exactly once, wherever they meet. Blank
    lines are not documents.

    Args:
        stream: at its beginning; it must be seekable unless `start` is 0.
        text_key: the key of a document's text.
        start: where the range begins.
        stop: where it ends; None: at the end of the stream.
        first_offset: where in its file the stream begins, for messages.

    Raises:
        BadLine: a line is not a record with a text, by the rules of recipes/data/text/json_lines.py.
    """
    for _, offset, line in read_lines(stream, start, stop, first_offset):
        try:
            text = text_of(parse_line(line), text_key, "name the text's key with --text-key")
        except BadRecord as bad:
            raise BadLine(offset, str(bad)) from None
        yield nfc(text)


def read_texts(path: str | Path, text_key: str) -> Iterator[str]:
    """The NFC texts of a file: a `.jsonl`'s documents, or any other file's lines; both may be compressed.

    Raises:
        UserError: a line cannot be read, or compressed data are damaged; the message names file and line.
    """
    try:
        with reading(path) as stream:
            if uncompressed_suffix(path) in (".jsonl", ".json"):
                yield from read_jsonl(stream, text_key)
            else:
                yield from _read_lines(stream)
    except BadLine as bad:
        raise bad.at(path) from None


def _read_lines(stream: BinaryIO) -> Iterator[str]:
    offset = 0
    for line in stream:
        try:
            yield nfc(line.decode("utf-8-sig" if offset == 0 else "utf-8"))
        except UnicodeDecodeError as error:
            raise BadLine(offset, f"not UTF-8: {error.reason} at byte {error.start} of the line") from None
        offset += len(line)
