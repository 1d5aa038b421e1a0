"""Reading documents from JSONL and plain text files, compressed or not, one at a time."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from recipes.data.text.compression import DAMAGE, damaged, is_compressed, open_stream, uncompressed_suffix
from recipes.data.text.nfc import nfc
from recipes.errors import UserError

_SURROGATE = re.compile("[\ud800-\udfff]")


class BadLine(ValueError):
    """A line that is not a document; `offset` is where it starts in the (unpacked) file."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)  # both, so that it survives the way back from a worker process
        self.offset = offset
        self.reason = reason

    def at(self, path: str | Path) -> UserError:
        """The same as a message for the user, which gives the line's number."""
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
        BadLine: a line is not JSON, lacks `text_key`, or its text is not valid Unicode text.
    """
    if start > 0:
        # A line that begins exactly at `start` belongs to this range: the byte before it is then a newline.
        stream.seek(start - 1)
        limit = -1 if stop is None else stop - start + 1
        rest = stream.readline(limit)
        if not rest.endswith(b"\n"):
            return  # One line spans the whole range. It is not read to its end: that would be quadratic.
        start += len(rest) - 1
    offset = start
    while stop is None or offset < stop:
        line = stream.readline()
        if not line:
            return
        begin, offset = offset, offset + len(line)
        if line.isspace():
            continue
        yield parse_document(line, text_key, first_offset + begin)


def parse_document(line: bytes, text_key: str, offset: int) -> str:
    """The NFC text of one JSONL line, which begins at `offset` in its file.

    Raises:
        BadLine: see `read_jsonl`.
    """
    try:
        # Decoded here because json.loads(bytes) would also try UTF-16 and UTF-32.
        record = json.loads(line.rstrip(b"\r\n").decode("utf-8-sig" if offset == 0 else "utf-8"))
    except UnicodeDecodeError as error:
        hint = " (compressed? its name must end in .gz, .zst or .bz2)" if offset == 0 else ""
        raise BadLine(offset, f"not UTF-8: {error.reason} at byte {error.start} of the line{hint}") from None
    except json.JSONDecodeError as error:
        raise BadLine(offset, f"not a line of JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:  # Absurdly long numbers, absurdly deep nesting.
        raise BadLine(offset, f"not a line of JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadLine(offset, f"expected an object with the key {text_key!r}, found {type(record).__name__}")
    if text_key not in record:
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        raise BadLine(offset, f"no key {text_key!r} (keys: {keys}); name the text's key with --text-key")
    text = record[text_key]
    if not isinstance(text, str):
        raise BadLine(offset, f"the value of {text_key!r} is {type(text).__name__}, not text")
    # Half of a surrogate pair can only come from an escape: valid UTF-8 contains none.
    if b"\\u" in line and _SURROGATE.search(text):
        raise BadLine(offset, f"the value of {text_key!r} contains half of a surrogate pair")
    return nfc(text)


def read_texts(path: str | Path, text_key: str) -> Iterator[str]:
    """The NFC texts of a file: a `.jsonl`'s documents, or any other file's lines; both may be compressed.

    Raises:
        UserError: a line cannot be read, or compressed data are damaged; the message names file and line.
    """
    try:
        with open_stream(path) as stream:
            if uncompressed_suffix(path) in (".jsonl", ".json"):
                yield from read_jsonl(stream, text_key)
            else:
                yield from _read_lines(stream)
    except BadLine as bad:
        raise bad.at(path) from None
    except OSError as error:
        raise (damaged(path, error) if is_compressed(path) else unreadable(path, error)) from None
    except DAMAGE as error:
        raise damaged(path, error) from None


def unreadable(path: str | Path, error: OSError) -> UserError:
    """Why a file cannot be read, as a message for the user."""
    return UserError(f"cannot read {path}: {error.strerror or error}")


def _read_lines(stream: BinaryIO) -> Iterator[str]:
    offset = 0
    for line in stream:
        try:
            yield nfc(line.decode("utf-8-sig" if offset == 0 else "utf-8"))
        except UnicodeDecodeError as error:
            raise BadLine(offset, f"not UTF-8: {error.reason} at byte {error.start} of the line") from None
        offset += len(line)
