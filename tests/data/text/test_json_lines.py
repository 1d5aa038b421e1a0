"""One table of odd lines for every reader of JSON lines: one with rules of its own fails here."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.config.hydra_app import compose
from recipes.data.clean.plan import Piece, make_plan
from recipes.data.download.corpora import Keys
from recipes.data.download.corpus_files import local_listing
from recipes.data.download.rows import read_rows
from recipes.data.text import json_lines
from recipes.data.text.blocks import Block, Place, cut, documents
from recipes.data.text.documents import read_texts
from recipes.data.text.json_lines import BadRecord, parse_line, read_lines
from recipes.errors import UserError
from recipes.evaluation.tasks import read_items
from recipes.generate import _read_prompts


def by_texts(path: Path) -> list[str]:
    return list(read_texts(path, "text"))


def by_ranges(path: Path) -> list[str]:
    blocks = cut([path], [path.stat().st_size], Place(0, 0), 7)
    return [text for block in blocks for text in documents(block, "text")]


def by_unpacked_blocks(path: Path) -> list[str]:
    content = path.read_bytes()
    block = Block(str(path), 0, len(content), content, Place(1, 0), True)
    return list(documents(block, "text"))


def by_download(path: Path) -> list[str]:
    rows = list(read_rows(*local_listing([str(path)]).files, Keys(), "file", 0))
    for row in rows:
        if row.problem:
            raise UserError(f"{row.place}: {row.problem}{row.detail}")
    return [row.text for row in rows]


def by_cleaning(path: Path) -> list[str]:
    pytest.importorskip("datatrove", reason="needs pip install -e '.[data]'")
    from datatrove.pipeline.writers import JsonlWriter

    from recipes.config.clean_schema import TextSource
    from recipes.data.clean.pipeline_blocks import ReadPieces, as_record

    def writer(name: str) -> Any:
        return JsonlWriter(str(path.parent / name), compression=None, adapter=as_record)

    def written(name: str) -> list[dict[str, Any]]:
        file = path.parent / name / "00000.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    edges = [*range(0, path.stat().st_size, 7), path.stat().st_size]
    pieces = [Piece("en", str(path), start, stop, stop - start) for start, stop in itertools.pairwise(edges)]
    sources = {"en": TextSource(path=[str(path)], language="eng_Latn")}
    reader = ReadPieces([pieces], sources, writer("dropped"), path.parent / "meter")
    with writer("kept") as kept:
        for document in reader.run():
            kept.write(document, 0)
    for record in written("dropped"):
        offset = int(record["id"].rpartition(":")[2])
        number = path.read_bytes()[:offset].count(b"\n") + 1
        raise UserError(f"{path}:{number}: {record['read_problem']}")
    return [record["text"] for record in written("kept")]


def by_evaluation(path: Path) -> list[str]:
    return [item["question"] for item in read_items(path)]


READERS: list[Callable[[Path], list[str]]] = [
    by_texts,
    by_ranges,
    by_unpacked_blocks,
    by_download,
    by_cleaning,
    by_evaluation,
    _read_prompts,
]
ITEM = b'"choices": ["a", "b", "c", "d"], "answer": 0'
GOOD = b'{"text": "good", MORE}'

REFUSED: list[tuple[bytes, str]] = [
    (b"plain", "not a line of JSON: Expecting value at character 1"),
    (b'{"text": "x", MORE', "not a line of JSON: Expecting ',' delimiter at character"),
    (b'{"text": "x", MORE} {}', "not a line of JSON: Extra data at character"),
    (b'{"text": "a\tb", MORE}', "not a line of JSON: Invalid control character"),
    (b"\xc2\xa0", "not a line of JSON"),
    (b'\xef\xbb\xbf{"text": "x", MORE}', "not a line of JSON: a byte order mark not at the file's beginning"),
    (
        b'{"text": "x", "in": ' + b"[" * 200 + b"]" * 200 + b", MORE}",
        "not a line of JSON: nested more than 200",
    ),
    (b'{"text": "x", "in": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b", MORE}", "not a line of JSON: nested"),
    (b"[" * 100_000, "not a line of JSON: nested more than 200 levels deep"),
    (b'["text"]', "not a JSON object but list"),
    (b'"text"', "not a JSON object but str"),
    (b"null", "not a JSON object but NoneType"),
    (b"{MORE}", "no text under 'text'"),
    (b'{"text": null, MORE}', "no text under 'text'"),
    (b'{"text": 7, MORE}', "'text' is int, not text"),
    (b'{"text": ' + b"9" * 5000 + b", MORE}", "'text' is float, not text"),
    (b'{"text": ["x"], MORE}', "'text' is list, not text"),
    (b'{"text": {"en": "x"}, MORE}', "'text' is dict, not text"),
    (b'{"text": true, MORE}', "'text' is bool, not text"),
    (b'{"text": "a", MORE, "text": "b"}', "a key given twice: 'text'"),
    (b'{"text": "a", "in": [{"k": 1, "k": 1}], MORE}', "a key given twice: 'k'"),
    (b'{"text": "a\\ud83d", MORE}', "half of a surrogate pair in the text"),
    (b'{"text": "\\ude00\\ud83d", MORE}', "half of a surrogate pair in the text"),
    (b'{"text": "\xed\xa0\xbd", MORE}', "not UTF-8: invalid continuation byte at byte"),
    (b'{"text": "caf\xe9", MORE}', "not UTF-8: invalid continuation byte at byte 13 of the line"),
    (b'{"text": "x", "name": "\xff", MORE}', "not UTF-8: invalid start byte at byte"),
    ('{"text": "x", MORE}'.encode("utf-16-le"), "not a line of JSON"),
    ('{"text": "x", MORE}'.encode("utf-16"), "not UTF-8: invalid start byte at byte 0 of the line (UTF-16?"),
    (b"\x1f\x8b\x08\x00", "not UTF-8: invalid start byte at byte 1 of the line (compressed?"),
]
TAKEN: list[tuple[bytes, str]] = [
    (b'{"text": "x", "n": NaN, "i": [Infinity, -Infinity, 1e999], MORE}', "x"),
    (b'{"text": "x", "n": 123456789012345678901234567890, "m": -18446744073709551616, MORE}', "x"),
    (b'{"text": "x", "n": ' + b"9" * 5000 + b", MORE}", "x"),
    (b'{"text": "x", "id": ' + b"9" * 400 + b", MORE}", "x"),
    (b'{"text": "x", "id": "\\ud800", "\\ud801": ["\\ud800"], MORE}', "x"),
    (b'{"text": "x", "in": ' + b"[" * 199 + b"]" * 199 + b", MORE}", "x"),
    (b'{"text": "\\ud83d\\ude00", MORE}', "\U0001f600"),
    (b'{"text": "a\\u0000b", MORE}', "a\0b"),
    (b'{"text": "a\\nb\\r\\nc", MORE}', "a\nb\r\nc"),
    ('{"text": "a\u2028b\u2029c\x85d", MORE}'.encode(), "a\u2028b\u2029c\x85d"),
    ('{"text": "\ufeffa", MORE}'.encode(), "\ufeffa"),
    ('{"text": "\u0928\u0926\u0940", "\u0928\u093e\u092e": "x", MORE}'.encode(), "\u0928\u0926\u0940"),
    (b' \t{ "text" : "x" , MORE } \r', "x"),
    (b'{"te\\u0078t": "x", MORE}', "x"),
]


def file_for(reader: Callable[[Path], list[str]], folder: Path, *lines: bytes) -> Path:
    """The lines, in the form of items where the reader is the one of items."""
    content = b"\n".join(lines)
    if reader is by_evaluation:
        content = content.replace(b'"text"', b'"question"').replace(b'"te\\u0078t"', b'"q\\u0075estion"')
        content = content.replace("MORE".encode("utf-16-le"), ITEM.decode().encode("utf-16-le"))
    else:
        content = content.replace("MORE".encode("utf-16-le"), '"more": 1'.encode("utf-16-le"))
    content = content.replace(b"MORE", ITEM if reader is by_evaluation else b'"more": 1')
    path = folder / "in.jsonl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_odd_lines_are_refused_in_the_same_words(
    reader: Callable[[Path], list[str]], line: bytes, reason: str, tmp_path: Path
) -> None:
    path = file_for(reader, tmp_path, GOOD, b"  ", line, b"")
    with pytest.raises(UserError) as refusal:
        reader(path)
    if reader is by_evaluation:
        reason = reason.replace("'text'", "'question'")
        reason = reason.replace("byte 13", "byte 17")
    assert str(refusal.value).startswith(f"{path}:3: {reason}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("line", "text"), TAKEN, ids=range(len(TAKEN)))
def test_unusual_records_are_read_the_same(
    reader: Callable[[Path], list[str]], line: bytes, text: str, tmp_path: Path
) -> None:
    assert reader(file_for(reader, tmp_path, line, GOOD)) == [text, "good"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b"\r\n\n \t\n\x0c\n"])
def test_marks_and_blank_lines(reader: Callable[[Path], list[str]], before: bytes, tmp_path: Path) -> None:
    path = file_for(reader, tmp_path, before + GOOD + b"\r", b"", b" \r", GOOD)
    assert reader(path) == ["good", "good"]


@pytest.mark.parametrize("reader", READERS)
def test_a_line_that_would_fill_the_memory(
    reader: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 100)
    path = file_for(reader, tmp_path, GOOD, b'{"text": "%s", MORE}' % (b"x" * 999), GOOD)
    with pytest.raises(UserError, match=r"in\.jsonl:2: a line of more than 100 bytes"):
        reader(path)


@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_cleaning_does_not_begin_on_a_file_without_records(line: bytes, reason: str, tmp_path: Path) -> None:
    """Only the first line counts; if merely its text is not text, it is dropped later, like any other."""
    path = file_for(make_plan, tmp_path, b"", line)
    source = f"data.sources={{en: {{path: [{path}], language: eng_Latn}}}}"
    config = compose("clean", [source, f"output_dir={tmp_path}/out"])
    if reason.startswith(("'text' is", "half of")) or b'"text": null' in line:
        assert make_plan(config)
        return
    with pytest.raises(UserError) as refusal:
        make_plan(config)
    assert str(refusal.value).startswith(f"{path.resolve()}:2: {reason}")


def test_ranges_see_every_line_once(tmp_path: Path) -> None:
    content = (
        b"\xef\xbb\xbf" + b"".join(b'{"text": "%d"}\n' % (10**i) for i in range(12)) + b'\n{"text": "z"}'
    )
    expected = [(offset, line) for _, offset, line in read_lines(io.BytesIO(content))]
    for size in range(1, 60):
        found = [
            (offset, line)
            for start in range(0, len(content), size)
            for _, offset, line in read_lines(io.BytesIO(content), start, min(start + size, len(content)))
        ]
        assert found == expected


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.booleans(), st.sampled_from([b"", b"\n", b"\r\n"]))
def test_valid_records_are_what_json_says(record: dict[str, Any], escaped: bool, end: bytes) -> None:
    line = json.dumps(record, ensure_ascii=escaped).encode() + end
    assert parse_line(line) == record == json.loads(line)
    ((number, offset, read),) = read_lines(io.BytesIO(b"\xef\xbb\xbf" + line))
    assert (number, offset, read) == (0, 0, line)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0d8 1-eN\n\ufeff', max_size=60).map(str.encode))
def test_any_bytes_give_a_record_or_a_reason(line: bytes) -> None:
    try:
        record = parse_line(line)
    except BadRecord as bad:
        assert str(bad) and "\n" not in str(bad)
    else:
        assert repr(record) == repr(json.loads(line.decode()))  # NaN does not equal itself.
