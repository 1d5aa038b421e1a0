"""The one reader of JSON lines: what a line is, what a record is, and what counts as its text.

Everything that reads users' JSON lines uses this module, so that a file that one reader accepts is not
refused, or read differently, by another. The rules:

- Lines end at ``\\n``, and only there. Blank ones are skipped.
- They are UTF-8. The file may start with a byte order mark.
- Each is one JSON object, in which no key is given twice, nested at most :data:`MOST_LEVELS` deep.
- Its text is a string of characters: not half of a surrogate pair, which no encoding can write.
- Other fields may hold whatever JSON allows, and Python's NaN and Infinity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from recipes.console import shown
from recipes.data.text.compression import reading
from recipes.errors import UserError

MOST_LEVELS = 200
"""Objects and lists inside each other. Python's parser would stop somewhere below 1,000, depending on the
caller's stack, and orjson, which writes cleaned text, at 254."""
LONGEST_LINE = 1 << 28
"""In bytes. A longer line is not a document, and must not fill the memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MOST_DIGITS = 4300  # What int() accepts.
_OTHER_FORMATS = {
    b"\x1f\x8b": "compressed? its name must end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed? its name must end in .zst",
    b"BZh": "compressed? its name must end in .bz2",
    b"\xff\xfe": "UTF-16? convert it to UTF-8",
    b"\xfe\xff": "UTF-16? convert it to UTF-8",
}


class BadRecord(ValueError):
    """A line or a row that is not a record with a text.

    Args:
        reason: one of a few, so that it can be counted.
        detail: what follows it in a message.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # Both, so that it survives the way back from a worker process.
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}{self.detail}"

    def at(self, path: str | Path, number: int) -> UserError:
        """The error as a message for the user; `number` is the line's, from 1."""
        return UserError(f"{path}:{number}: {self}")


class NoText(BadRecord):
    """The line is JSON, but there is no text where it should be."""


def read_lines(
    stream: BinaryIO, start: int = 0, stop: int | None = None, first_offset: int = 0
) -> Iterator[tuple[int, int, bytes]]:
    """The lines that begin in the byte range [start, stop), without blank ones and the byte order mark.

    Adjacent ranges together yield every line exactly once, wherever they meet. Only the beginning of a line
    that is too long is kept, and :func:`parse_line` refuses it.

    Args:
        stream: at its beginning; it need not be seekable if `start` is 0.
        start: where the range begins.
        stop: where it ends; None: at the end of the stream.
        first_offset: where in its file the stream begins.

    Yields:
        the number of the line, counted from the range's first, which is 0; where it begins in the file; and
        its bytes.
    """
    if start > 0:
        # A line that begins exactly at `start` is ours: then the byte before it is its newline.
        stream.seek(start - 1)
        rest = stream.readline(-1 if stop is None else stop - start + 1)
        if not rest.endswith(b"\n"):
            return  # One line spans the whole range (never read to its end: that would be quadratic).
        start += len(rest) - 1
    offset, number = start, 0
    while stop is None or offset < stop:
        line = stream.readline(LONGEST_LINE + 1)
        if not line:
            return
        begin, offset = first_offset + offset, offset + len(line)
        if len(line) > LONGEST_LINE:
            offset += _pass_over_line(stream, line)
        if begin == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line and not line.isspace():
            yield number, begin, line
        number += 1


def _pass_over_line(stream: BinaryIO, rest: bytes) -> int:
    """Skips the rest of a line and returns its length."""
    length = 0
    while rest and not rest.endswith(b"\n"):
        rest = stream.readline(1 << 20)
        length += len(rest)
    return length


def parse_line(line: bytes) -> dict[str, Any]:
    """The object that a line holds, which comes without the file's byte order mark.

    Raises:
        BadRecord: see the rules above.
    """
    if len(line) > LONGEST_LINE:
        raise BadRecord(f"a line of more than {LONGEST_LINE} bytes")
    try:
        # Decoded here, because json.loads(bytes) would also guess at UTF-16 and UTF-32.
        text = line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        hints = [f" ({hint})" for magic, hint in _OTHER_FORMATS.items() if line.startswith(magic)]
        detail = f": {error.reason} at byte {error.start} of the line{''.join(hints)}"
        raise BadRecord("not UTF-8", detail) from None
    try:
        record = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if text.startswith("\ufeff"):
            raise BadRecord("not a line of JSON", ": a byte order mark not at the file's beginning") from None
        raise BadRecord("not a line of JSON", f": {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(record, dict):
        raise NoText("not a JSON object", f" but {type(record).__name__}")
    level: list[Any] = [value for value in record.values() if isinstance(value, dict | list)]
    depth = 1
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise _too_deep()
        below = (entry for value in level for entry in (value.values() if isinstance(value, dict) else value))
        level = [value for value in below if isinstance(value, dict | list)]
    return record


def text_of(record: dict[str, Any], key: str, hint: str = "") -> str:
    """The text of a record.

    Args:
        record: the record.
        key: where it is.
        hint: ends the message if there is no such key: how to name another.

    Raises:
        BadRecord: see `checked_text`.
    """
    if key not in record:
        keys = ", ".join(map(shown, list(record)[:8])) or "none"
        raise NoText(f"no text under {key!r}", f" (keys: {keys})" + (f"; {hint}" if hint else ""))
    return checked_text(record[key], key)


def checked_text(value: Any, key: str) -> str:
    """The value of a key or column, which must be a text.

    Raises:
        BadRecord: it is null, of another type, or has half of a surrogate pair in it.
    """
    if value is None:
        raise NoText(f"no text under {key!r}")
    if not isinstance(value, str):
        raise NoText(f"{key!r} is {type(value).__name__}, not text")
    try:
        value.encode("utf-16-le")  # Refuses the same as UTF-8, ten times as fast for Hindi.
    except UnicodeEncodeError:
        raise BadRecord("half of a surrogate pair in the text") from None
    return value


def as_text(value: Any) -> str:
    """A value of any kind, a document's id for instance, as text that can be written."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.encode(errors="replace").decode()


def read_records(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a whole file, compressed or not, with the numbers of their lines, from 1.

    Raises:
        UserError: the file cannot be read, or a line is not an object; the message names file and line.
    """
    with reading(path) as stream:
        for number, _, line in read_lines(stream):
            try:
                yield number + 1, parse_line(line)
            except BadRecord as bad:
                raise bad.at(path, number + 1) from None


def _too_deep() -> BadRecord:
    return BadRecord("not a line of JSON", f": nested more than {MOST_LEVELS} levels deep")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # The last would silently win.
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadRecord("a key given twice", f": {shown(twice)}")
    return entries


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_whole_number)
