"""The rows of one file, from any row on: parquet, JSON lines, or plain text."""

import io
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from recipes.checks import refuse
from recipes.data.download.corpora import Keys, TxtDocuments
from recipes.data.download.corpus_files import DataFile
from recipes.errors import UserError

_LONGEST = 1 << 28  # bytes of one document; more is no document, and must not fill the memory
_LONGEST_TXT_FILE = 1 << 26
_BATCH_ROWS = 256
_BUFFER_BYTES = 4 << 20


@dataclass(slots=True)
class Row:
    """One row of a file.

    Args:
        number: its place in the file; the next run may begin with the one after it.
        place: the same for messages, as in `hi.jsonl:12`.
        problem: why it is not a document, or empty.
        stored: how many of the file's stored bytes have been used by then; 0 where that is not known.
    """

    number: int
    place: str
    text: str = ""
    id: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    stored: int = 0


def read_rows(file: DataFile, keys: Keys, txt_documents: TxtDocuments, start: int) -> Iterator[Row]:
    """The rows of `file` from number `start` on.

    Rows before `start` are passed over: by whole row groups in parquet, by reading on elsewhere.

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
    import pyarrow.parquet

    with file.open() as raw, pyarrow.parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES) as table:
        schema = table.schema_arrow
        for key in filter(None, (keys.text, keys.id)):
            if key not in schema.names:
                raise UserError(f"{file.name}: no column {key!r} (columns: {', '.join(schema.names)})")
        if not _is_text(schema.field(keys.text).type):
            raise UserError(f"{file.name}: {keys.text!r} is {schema.field(keys.text).type}, not text")
        fields = {"text": keys.text, **({"id": keys.id} if keys.id else {})}
        fields |= {name: column for name, column in keys.extra.items() if column in schema.names}
        number = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if number + rows <= start:
                number += rows
                continue
            for batch in table.iter_batches(_BATCH_ROWS, [group], list({*fields.values()})):
                columns = [_values(batch.column(column)) for column in fields.values()]
                for values in zip(*columns, strict=True):
                    if number >= start:
                        place = f"{file.name}: row {number + 1}"
                        row = _row(file.name, number, place, dict(zip(fields, values, strict=True)), keys)
                        row.stored = file.size * (number + 1) // table.metadata.num_rows
                        yield row
                    number += 1


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _values(column: Any) -> list[Any]:
    """A column's values; text as bytes, since a file may claim UTF-8 that is none."""
    import pyarrow

    if not _is_text(column.type):
        return list(column.to_pylist())
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return list(column.cast(pyarrow.large_binary()).to_pylist())


def _json_rows(stream: BinaryIO, name: str, keys: Keys) -> Iterator[Row]:
    fields = {"text": keys.text, **({"id": keys.id} if keys.id else {}), **keys.extra}
    for number, line in _lines(stream, name):
        if line.isspace():
            continue
        place = f"{name}:{number + 1}"
        try:
            # Decoded here, because json.loads(bytes) would also guess at UTF-16 and UTF-32.
            record = json.loads(line.decode("utf-8-sig" if number == 0 else "utf-8"))
        except UnicodeDecodeError:
            yield Row(number, place, problem="not UTF-8")
            continue
        except (ValueError, RecursionError):
            yield Row(number, place, problem="not a line of JSON")
            continue
        if not isinstance(record, dict):
            yield Row(number, place, problem="not a JSON object")
            continue
        values = {field: _look_up(record, key) for field, key in fields.items()}
        yield _row(name, number, place, values, keys)


def _look_up(record: dict[str, Any], key: str) -> Any:
    """record["a.b"], or record["a"]["b"]; None where there is neither."""
    if key in record or "." not in key:
        return record.get(key)
    first, _, rest = key.partition(".")
    inner = record.get(first)
    return _look_up(inner, rest) if isinstance(inner, dict) else None


def _row(name: str, number: int, place: str, values: dict[str, Any], keys: Keys) -> Row:
    """A row from its fields, or what is wrong with it."""
    text = values["text"]
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if text is None:
            return Row(number, place, problem=f"no text under {keys.text!r}")
        if not isinstance(text, str):
            return Row(number, place, problem=f"{keys.text!r} is {type(text).__name__}, not text")
        text.encode()
    except UnicodeDecodeError:
        return Row(number, place, problem="not UTF-8")
    except UnicodeEncodeError:
        return Row(number, place, problem="half of a surrogate pair in the text")
    if keys.id and values["id"] is None:
        return Row(number, place, problem=f"no id under {keys.id!r}")
    extra = {key: _plain(values[key]) for key in keys.extra if values.get(key) is not None}
    return Row(number, place, text, _plain(values["id"]) if keys.id else f"{name}:{number}", extra)


def _plain(value: Any) -> str:
    """A value of any kind as text that can be written."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.encode(errors="replace").decode()


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
