"""The rows of one file, from any row on: parquet, JSON lines, or plain text."""

import io
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from recipes.checks import refuse
from recipes.data.download.corpora import Keys, TxtDocuments
from recipes.data.download.corpus_files import DataFile
from recipes.data.text.json_lines import BadRecord, as_text, checked_text, parse_line, read_lines
from recipes.data.text.parquet_rows import read_table
from recipes.errors import UserError

_LONGEST = 1 << 28  # bytes of one document; anything longer is not a document, and must not fill the memory
_LONGEST_TXT_FILE = 1 << 26
_BUFFER_BYTES = 4 << 20


@dataclass(slots=True)
class Row:
    """One row of a file.

    Args:
        number: its position in the file; a later run may start with the one after it.
        place: the position in messages, as in `hi.jsonl:12`.
        problem: why it is not a document, one of a few reasons that are counted; empty if it is one.
        detail: the rest of the message.
        stored: how many of the file's stored bytes have been read so far; 0 if not known.
    """

    number: int
    place: str
    text: str = ""
    id: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    detail: str = ""
    stored: int = 0


def read_rows(file: DataFile, keys: Keys, txt_documents: TxtDocuments, start: int) -> Iterator[Row]:
    """The rows of `file` from number `start` on.

    Rows before `start` are skipped: in parquet by whole row groups, elsewhere by reading them.

    Raises:
        UserError: the file is damaged, cannot be read, or has no such column.
    """
    import pyarrow

    try:
        if file.format == "parquet":
            yield from _parquet_rows(file, keys, start)
            return
        content, used = file.open_text()
        # Buffered once more: a RangeFile would go through its cache for every line.
        with io.BufferedReader(content, _BUFFER_BYTES) as stream:  # type: ignore[type-var]
            if file.format == "jsonl":
                rows = _json_rows(stream, file.name, keys)
            elif txt_documents == "file":
                rows = _whole_file(stream, file.name)
            else:
                rows = _blocks(stream, file.name)
            for row in rows:
                if row.number >= start:
                    row.stored = used()
                    yield row
    except (EOFError, OSError, zlib.error, lzma.LZMAError, pyarrow.ArrowException) as error:
        if isinstance(error, OSError) and error.filename:
            raise UserError(f"cannot read {file.name}: {error.strerror}") from error
        raise file.damaged(error) from error


def _parquet_rows(file: DataFile, keys: Keys, start: int) -> Iterator[Row]:
    fields = _fields(keys)
    ids = [keys.id] if keys.id else []
    with file.open() as raw:
        for number, rows, values in read_table(
            raw, file.name, text=[keys.text], others=ids, optional=list(keys.extra.values()), start=start
        ):
            row = Row(number, f"{file.name}: row {number + 1}", stored=file.size * (number + 1) // rows)
            try:
                if isinstance(values, BadRecord):
                    raise values
                _fill(row, file.name, {field: values.get(column) for field, column in fields.items()}, keys)
            except BadRecord as bad:
                row.problem, row.detail = bad.reason, bad.detail
            yield row


def _json_rows(stream: BinaryIO, name: str, keys: Keys) -> Iterator[Row]:
    fields = _fields(keys)
    for number, _, line in read_lines(stream):
        row = Row(number, f"{name}:{number + 1}")
        try:
            record = parse_line(line)
            _fill(row, name, {field: _look_up(record, key) for field, key in fields.items()}, keys)
        except BadRecord as bad:
            row.problem, row.detail = bad.reason, bad.detail
        yield row


def _fields(keys: Keys) -> dict[str, str]:
    return {"text": keys.text, **({"id": keys.id} if keys.id else {}), **keys.extra}


def _look_up(record: dict[str, Any], key: str) -> Any:
    """record["a.b"], or record["a"]["b"]; None if there is neither."""
    if key in record or "." not in key:
        return record.get(key)
    first, _, rest = key.partition(".")
    inner = record.get(first)
    return _look_up(inner, rest) if isinstance(inner, dict) else None


def _fill(row: Row, name: str, values: dict[str, Any], keys: Keys) -> None:
    """Sets a row's text, id and further fields.

    Raises:
        BadRecord: it has no text, or no id although `keys` names one.
    """
    row.text = checked_text(values["text"], keys.text)
    if keys.id and values["id"] is None:
        raise BadRecord(f"no id under {keys.id!r}")
    row.id = as_text(values["id"]) if keys.id else f"{name}:{row.number}"
    row.extra = {key: as_text(values[key]) for key in keys.extra if values.get(key) is not None}


def _blocks(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Documents separated by blank lines."""
    number = size = first = 0
    lines: list[bytes] = []
    for place, line in _lines(stream, name):
        if not line.isspace():
            first = first if lines else place
            lines.append(line)
            size += len(line)
            if size > _LONGEST:
                raise UserError(f"{name}:{first + 1}: a document of more than {_LONGEST} bytes")
        elif lines:
            yield _decoded(number, f"{name}:{first + 1}", name, b"".join(lines).rstrip(b"\r\n"))
            number, lines, size = number + 1, [], 0
    if lines:
        yield _decoded(number, f"{name}:{first + 1}", name, b"".join(lines).rstrip(b"\r\n"))


def _whole_file(stream: BinaryIO, name: str) -> Iterator[Row]:
    """The file as one document."""
    content = stream.read(_LONGEST_TXT_FILE + 1)
    if len(content) > _LONGEST_TXT_FILE:
        refuse(
            "--txt-documents",
            "file",
            f"{name} has more than {_LONGEST_TXT_FILE >> 20} MiB; if blank lines separate its documents, "
            "choose blank-line",
        )
    yield _decoded(0, name, name, content)


def _decoded(number: int, place: str, name: str, content: bytes) -> Row:
    try:
        text = content.decode("utf-8-sig" if number == 0 else "utf-8")
    except UnicodeDecodeError:
        return Row(number, place, problem="not UTF-8")
    return Row(number, place, text, f"{name}:{number}")


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 0."""
    number = 0
    while line := stream.readline(_LONGEST):
        if len(line) == _LONGEST and not line.endswith(b"\n"):
            raise UserError(f"{name}:{number + 1}: a line of more than {_LONGEST} bytes")
        yield number, line
        number += 1
