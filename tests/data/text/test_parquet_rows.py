"""One table of odd Parquet files for every reader of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.data.download.corpora import Keys
from recipes.data.download.corpus_files import local_listing
from recipes.data.download.rows import read_rows
from recipes.errors import UserError

Reader = Callable[[Path], list[str]]


def by_download(path: Path) -> list[str]:
    texts = []
    for row in read_rows(*local_listing([str(path)]).files, Keys(), "file", 0):
        if row.problem and row.problem != "no text under 'text'":
            raise UserError(f"{row.place}: {row.problem}{row.detail}")
        texts.append(row.text)
    return texts


def by_benchmarks(path: Path) -> list[str]:
    pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")
    from recipes.data.clean.contamination import _rows

    return list(_rows(path, []))


READERS: list[Reader] = [by_download, by_benchmarks]


def invalid(kind: Any, *values: bytes) -> Any:
    """A column that claims to be text."""
    binary = pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
    return pa.array(values, binary).view(kind)


def of(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "नदी"]),
        pa.array(["a", None, "नदी"], pa.large_string()),
        pa.array(["a", None, "नदी"]).dictionary_encode(),
        pa.chunked_array([["a"], [None, "नदी"]]),
    ],
)
def test_every_kind_of_text(reader: Reader, column: Any, tmp_path: Path) -> None:
    assert reader(of(tmp_path / "a.parquet", text=column, n=pa.array([1, 2, 3]))) == ["a", "", "नदी"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_not_utf8(reader: Reader, kind: Any, tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", text=invalid(kind, b"a", b"b", b"c", b"x\xff"))
    with pytest.raises(UserError) as refusal:
        reader(path)
    assert str(refusal.value) == f"{path}: row 4: not UTF-8: invalid start byte at byte 1 of a column"


@pytest.mark.parametrize("reader", READERS)
def test_two_columns_of_one_name(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(UserError, match=r"a\.parquet: two columns are called 'text'"):
        reader(path)
    inner = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["en", "en"])
    of(path, text=pa.array(["a"]), more=pa.ListArray.from_arrays([0, 1], inner))
    with pytest.raises(UserError, match=r"a\.parquet: two columns are called 'en'"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_damage(reader: Reader, tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", text=pa.array(["some text"] * 99))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet is damaged or incomplete"):
        reader(path)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([b"a"]), "binary"),
        (pa.array([1]), "int64"),
        (pa.array([["a"]]), "list<element: string>"),
        (pa.array([b"a"]).dictionary_encode(), "dictionary<values=binary, indices=int32, ordered=0>"),
        (pa.array([{"en": "a"}]), "struct<en: string>"),
        (pa.array([None]), "null"),
    ],
)
def test_a_text_column_of_another_type(column: Any, kind: str, tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", text=column)
    with pytest.raises(UserError) as refusal:
        by_download(path)
    assert str(refusal.value) == f"{path}: 'text' is {kind}, not text"


def test_a_missing_column(tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", body=pa.array(["a"]), n=pa.array([1]))
    with pytest.raises(UserError) as refusal:
        by_download(path)
    assert str(refusal.value) == f"{path}: no column 'text' (columns: body, n)"


def test_nested_texts_of_a_benchmark_are_all_seen(tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", q=pa.array(["a"]), c=pa.array([{"text": ["b", None], "label": [1]}]))
    assert by_benchmarks(path) == ["a\nb"]


@pytest.mark.parametrize("start", range(6))
def test_rows_from_any_on(start: int, tmp_path: Path) -> None:
    path = of(tmp_path / "a.parquet", text=pa.array(list("abcde")))
    rows = read_rows(*local_listing([str(path)]).files, Keys(), "file", start)
    assert [(row.number, row.text) for row in rows] == list(enumerate("abcde"))[start:]
