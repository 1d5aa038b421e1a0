"""The user's own files: every kind and compression, and messages that name file and line."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.data.download.download import download
from recipes.data.download.options import Options
from recipes.errors import UserError

TEXTS = ["नदी बहती है।\nहाँ।", "cafe\u0301 \u200d", "  edges  "]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def options(out: Path, *inputs: Path | str, **more: Any) -> Options:
    return Options("local", out, inputs=[str(one) for one in inputs], **more)


def get(options: Options) -> list[tuple[str, str]]:
    """Download; the texts and ids written."""
    manifest = download(options, lambda message: None)
    lines = [
        line for shard in manifest.shards for line in (options.out / shard.name).read_bytes().splitlines()
    ]
    records = [json.loads(line) for line in lines]
    assert {record["source"] for record in records} == {"local"}
    return [(record["text"], record["id"]) for record in records]


def jsonl(texts: list[str], **more: Any) -> bytes:
    return "".join(json.dumps({"text": text, **more}, ensure_ascii=False) + "\n" for text in texts).encode()


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    content = b"\xef\xbb\xbf" + jsonl(TEXTS[:2]) + b"\n  \r\n" + jsonl(TEXTS[2:])
    path.write_bytes(COMPRESSORS[suffix](content))
    expected = [(TEXTS[0], f"{path}:0"), (TEXTS[1], f"{path}:1"), (TEXTS[2], f"{path}:4")]
    assert get(options(tmp_path / "out", path)) == expected


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_plain_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESSORS[suffix]("\n\nएक\r\nदो\n \n\n\nतीन ".encode()))
    assert get(options(tmp_path / "whole", path)) == [("\n\nएक\r\nदो\n \n\n\nतीन ", f"{path}:0")]
    parts = get(options(tmp_path / "parts", path, txt_documents="blank-line"))
    assert parts == [("एक\r\nदो", f"{path}:0"), ("तीन ", f"{path}:1")]


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    kinds = pa.array(TEXTS), pa.array(TEXTS, pa.large_string()), pa.array(TEXTS).dictionary_encode()
    for number, body in enumerate(kinds):
        table = pa.table({"key": [1, 2, 3], "body": body})
        pq.write_table(table, path, row_group_size=2)
        got = get(options(tmp_path / f"out{number}", path, text_key="body", id_key="key"))
        assert got == [(text, str(key)) for key, text in enumerate(TEXTS, 1)]


def test_files_in_the_order_given(tmp_path: Path) -> None:
    for name in ("b2", "b10", "a"):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl([name]))
    (tmp_path / "[odd].txt").write_text("odd", "utf-8")
    inputs = f"{tmp_path}/b*.jsonl", f"{tmp_path}/a.jsonl", f"{tmp_path}/[odd].txt"
    assert [text for text, _ in get(options(tmp_path / "out", *inputs))] == ["b10", "b2", "a", "odd"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", jsonl(["x"]) + b"{", r"a.jsonl:2: not a line of JSON"),
        ("a.jsonl", b'\n{"text": null}', r"a.jsonl:2: no text under 'text'"),
        ("a.jsonl", b'{"body": "x"}', r"a.jsonl:1: no text under 'text'"),
        ("a.jsonl", b'{"text": ["x"]}', r"a.jsonl:1: 'text' is list, not text"),
        ("a.jsonl", b'{"text": "\\ud83d"}', r"a.jsonl:1: half of a surrogate pair"),
        ("a.jsonl", b'{"text": "\xff"}', r"a.jsonl:1: not UTF-8"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl:1: not a line of JSON"),
        ("a.jsonl.gz", gzip.compress(jsonl(["x"]) + b"5", mtime=0), r"a.jsonl.gz:2: not a JSON object"),
        ("a.jsonl.gz", gzip.compress(jsonl(["x"]), mtime=0)[:-5], r"a.jsonl.gz is damaged"),
        ("a.jsonl.xz", b"no", r"a.jsonl.xz is damaged"),
        ("a.jsonl.zst", b"no", r"a.jsonl.zst is damaged"),
        ("a.txt", b"x\n\n\ny\n\xff", r"a.txt:4: not UTF-8"),
        ("a.parquet", b"no", r"a.parquet is damaged"),
        ("a.csv", b"x", r"a.csv: unknown kind of file \(known: .parquet, .jsonl, .txt"),
        ("a.parquet.gz", b"x", r"a.parquet.gz: unknown kind of file"),
        ("a.jsonl", b"\n", r"local has no documents with text"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    split = "blank-line" if name == "a.txt" else None
    with pytest.raises(UserError, match=message):
        get(options(tmp_path / "out", tmp_path / name, txt_documents=split))
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["x"], key=None))
    out = tmp_path / "out"
    for wrong, message in [
        (options(out), "local needs files"),
        (options(out, tmp_path / "none"), "none: no such file"),
        (options(out, tmp_path), r"is a directory: name its files"),
        (options(out, path, f"{tmp_path}/*.jsonl"), r"a.jsonl is named twice"),
        (options(out, path, id_key="key"), r"a.jsonl:1: no id under 'key'"),
        (options(out, path, mirror=tmp_path), r"--mirror=.* is not for source local"),
        (options(out, path, max_bytes=0), r"--max-bytes=0: must be positive"),
        (options(out, path, max_bytes=1, max_tokens=1), r"--max-tokens=1: there is --max-bytes"),
        (options(out, path, max_tokens=1), "--max-tokens and --tokenizer need each other"),
        (Options("wikipedia_hi", out, text_key="body"), r"--text-key=body: is for source local only"),
        (Options("wikipedia_hi", out, inputs=["a"]), "files are for source local only"),
        (Options("wikipedia", out), r"source=wikipedia: choose one of sangraha_hi, cc100_hi"),
        (Options("wikipedia_hi", out, mirror=tmp_path, revision="x"), r"--revision=x: a mirror has one"),
    ]:
        with pytest.raises(UserError, match=message):
            download(wrong, lambda message: None)


def test_a_very_large_text_file_is_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.download.rows._LONGEST_TXT_FILE", 10)
    monkeypatch.setattr("recipes.data.download.rows._LONGEST", 8)
    (tmp_path / "a.txt").write_bytes(b"0123\n\n456789")
    with pytest.raises(UserError, match=r"--txt-documents=file: .*choose blank-line"):
        get(options(tmp_path / "out", tmp_path / "a.txt"))
    assert len(get(options(tmp_path / "out", tmp_path / "a.txt", txt_documents="blank-line"))) == 2
    (tmp_path / "b.txt").write_bytes(b"0123\n012345")
    with pytest.raises(UserError, match=r"b.txt:1: a document of more than 8 bytes"):
        get(options(tmp_path / "out2", tmp_path / "b.txt", txt_documents="blank-line"))
    monkeypatch.setattr("recipes.data.text.json_lines.LONGEST_LINE", 8)
    (tmp_path / "c.jsonl").write_bytes(jsonl(["long"]))
    with pytest.raises(UserError, match=r"c.jsonl:1: a line of more than 8 bytes"):
        get(options(tmp_path / "out3", tmp_path / "c.jsonl"))


@pytest.mark.parametrize("compress", ["gz", "zst"])
def test_compressed_shards(tmp_path: Path, compress: Any) -> None:
    texts = [f"{number} पाठ" * 9 for number in range(40)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(texts))
    common = {"shard_bytes": 1500, "compress": compress}
    manifest = download(options(tmp_path / "out", tmp_path / "a.jsonl", **common), lambda message: None)
    again = download(options(tmp_path / "again", tmp_path / "a.jsonl", **common), lambda message: None)
    assert manifest.shards == again.shards
    assert len(manifest.shards) > 3
    # What this project reads, and (zstd) any other decoder, read them.
    paths = [tmp_path / "out" / shard.name for shard in manifest.shards]
    assert all(path.suffix == f".{compress}" for path in paths)
    if compress == "gz":
        assert {path.read_bytes()[4:8] for path in paths} == {bytes(4)}  # no time of writing
    assert [text for text, _ in get(options(tmp_path / "back", *paths))] == texts
