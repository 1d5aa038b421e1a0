"""The one reader of Parquet tables with text in them: which columns count as text, and what makes a row bad.

- Column names are distinct, inside structures too: of two with one name, one would silently be lost.
- A text column is string, large_string, or a dictionary of these. Bytes are not text.
- A null is None: no text, by `checked_text`'s rule for JSON lines.
- A row with text that is not UTF-8, which Parquet writers do not check, is a :class:`BadRecord` in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from recipes.data.text.compression import damaged
from recipes.data.text.json_lines import BadRecord
from recipes.errors import UserError

_BATCH_ROWS = 256
_BUFFER_BYTES = 4 << 20


def read_table(
    raw: BinaryIO,
    name: str,
    *,
    text: Sequence[str] = (),
    others: Sequence[str] = (),
    optional: Sequence[str] = (),
    start: int = 0,
) -> Iterator[tuple[int, int, dict[str, Any] | BadRecord]]:
    """The rows of a table from number `start` on; whole row groups before it are skipped.

    Args:
        raw: the file, seekable.
        name: what it is called in messages.
        text: columns that must exist and hold text.
        others: columns that must exist.
        optional: columns that may be missing; the rows then lack them. If no columns are named at all, every
            column is read.
        start: the first row to yield, from 0.

    Yields:
        the row's number, the number of rows in the table, and the row.

    Raises:
        UserError: the file is damaged, a column is missing or not text, or two have the same name.
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES) as table:
            schema, metadata = table.schema_arrow, table.metadata
            _refuse_equal_names(name, schema)
            for key in (*text, *others):
                if key not in schema.names:
                    raise UserError(f"{name}: no column {key!r} (columns: {', '.join(schema.names)})")
            for key in text:
                if not is_text(schema.field(key).type):
                    raise UserError(f"{name}: {key!r} is {schema.field(key).type}, not text")
            asked = {*text, *others, *optional}
            columns = [key for key in schema.names if key in asked or not asked]
            number = 0
            for group in range(table.num_row_groups):
                rows = metadata.row_group(group).num_rows
                if number + rows <= start:
                    number += rows
                    continue
                for batch in table.iter_batches(_BATCH_ROWS, [group], columns):
                    for row in _rows(batch.select(columns)):
                        if number >= start:
                            yield number, metadata.num_rows, row
                        number += 1
    except pyarrow.ArrowException as error:
        raise damaged(name, error) from error


def is_text(kind: Any) -> bool:
    """Whether a column's type is text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _refuse_equal_names(name: str, fields: Any) -> None:
    from pyarrow import types

    names = [field.name for field in fields]
    for one in names:
        if names.count(one) > 1:
            raise UserError(f"{name}: two columns are called {one!r}")
    for kind in (field.type for field in fields):
        while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind = kind.value_type
        if types.is_struct(kind):
            _refuse_equal_names(name, kind)


def _rows(batch: Any) -> list[dict[str, Any] | BadRecord]:
    try:
        rows: list[dict[str, Any] | BadRecord] = batch.to_pylist()
        return rows
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [BadRecord("not UTF-8", f": {error.reason} at byte {error.start} of a column")]
    return [row for number in range(batch.num_rows) for row in _rows(batch.slice(number, 1))]
