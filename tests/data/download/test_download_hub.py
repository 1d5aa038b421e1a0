"""Corpora read from a stand-in for the hub over real HTTP: content, bad networks, revisions, mirrors."""

import contextlib
import gzip
import io
import json
import logging
import lzma
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.data.download import corpora as sources
from recipes.data.download import download as run
from recipes.data.download import network
from recipes.data.download.corpora import SOURCES
from recipes.data.download.download import download
from recipes.data.download.options import Options
from recipes.errors import UserError
from recipes.files import sha256_file
from tests.support.hub import StandInHub, article, parquet, use_endpoint
from tests.support.ports import free_port

WIKI = "wikimedia/wikipedia"


def wiki_files(files: int = 3, rows: int = 10) -> dict[str, bytes]:
    names = [f"20231101.hi/train-{i:05}-of-{files:05}.parquet" for i in range(files)]
    tables = {name: parquet([article(i * rows + row) for row in range(rows)]) for i, name in enumerate(names)}
    return {"README.md": b"#", "20231101.en/train-00000-of-00001.parquet": parquet([article(0)]), **tables}


def wiki_lines(count: int) -> list[dict[str, str]]:
    articles = map(article, range(count))
    return [
        {"text": a["text"], "id": a["id"], "source": "wikipedia_hi", "url": a["url"], "title": a["title"]}
        for a in articles
    ]


def written(directory: Path) -> list[dict[str, str]]:
    names = [
        shard["name"] for shard in json.loads((directory / "manifest.json").read_text("utf-8"))["shards"]
    ]
    assert {path.name for path in directory.iterdir()} == {*names, "manifest.json"}
    return [json.loads(line) for name in names for line in (directory / name).read_bytes().splitlines()]


def quiet(message: str) -> None:
    pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    with StandInHub() as server:
        use_endpoint(monkeypatch, server.url)
        yield server


def test_wikipedia(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, wiki_files())
    manifest = download(Options("wikipedia_hi", tmp_path, shard_bytes=2000), quiet)
    assert written(tmp_path) == wiki_lines(30)
    assert (manifest.status, manifest.documents, manifest.revision) == ("complete", 30, "a" * 40)
    assert len(manifest.shards) > 2
    for shard in manifest.shards:
        assert shard.sha256 == sha256_file(tmp_path / shard.name)
        assert shard.bytes <= 2000
    saved = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert saved["licence"] == "CC-BY-SA-3.0 and GFDL"
    assert saved["text_bytes"] == sum(len(line["text"].encode()) for line in wiki_lines(30))


def test_sangraha_and_hinglish(hub: StandInHub, tmp_path: Path) -> None:
    rows = [{"doc_id": "d1", "type": "web", "text": "एक"}, {"doc_id": "d2", "type": "pdf", "text": None}]
    hub.add("ai4bharat/sangraha", {"verified/hin/data-0.parquet": parquet([*rows, {**rows[0], "text": " "}])})
    manifest = download(Options("sangraha_hi", tmp_path / "s"), quiet)
    assert written(tmp_path / "s") == [{"text": "एक", "id": "d1", "source": "sangraha_hi", "type": "web"}]
    assert manifest.skipped == {"no text under 'text'": 1, "empty text": 1}

    files = {
        f"lcsalign-hicmrom/{part}-00000-of-00001.parquet": parquet([{"text": part}])
        for part in ("train", "test")
    }
    hub.add("kartikagg98/HINMIX_hi-en", files)
    download(Options("hinglish", tmp_path / "h"), quiet)
    name = "lcsalign-hicmrom/train-00000-of-00001.parquet:0"
    assert written(tmp_path / "h") == [{"text": "train", "id": name, "source": "hinglish"}]


def test_stackexchange(hub: StandInHub, tmp_path: Path) -> None:
    good = {
        "id": "1",
        "text": "Q\nA",
        "metadata": {"url": "https://ai/1", "license": "CC-BY-SA", "more": [1]},
    }
    lines = [json.dumps(good), "not json", json.dumps({"id": "2"}), json.dumps({"text": "\ud800"}), "[1]"]
    content = gzip.compress("\n".join([*lines, json.dumps({"text": "bare"})]).encode())
    hub.add("common-pile/stackexchange", {"ai.x/documents/00000_se.jsonl.gz": content})
    manifest = download(Options("stackexchange", tmp_path), quiet)
    name, source = "ai.x/documents/00000_se.jsonl.gz", "stackexchange"
    assert written(tmp_path) == [
        {"text": "Q\nA", "id": f"{name}:0", "source": source, "url": "https://ai/1", "license": "CC-BY-SA"},
        {"text": "bare", "id": f"{name}:5", "source": source},
    ]
    assert manifest.skipped == {
        "not a line of JSON": 1,
        "no text under 'text'": 1,
        "half of a surrogate pair in the text": 1,
        "not a JSON object": 1,
    }


def test_cc100(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.web["/cc-100/hi.txt.xz"] = lzma.compress(
        "एक\nदो\n\n\nतीन\n\n".encode() + b"\xff\n\n" + "चार".encode()
    )
    here = replace(SOURCES["cc100_hi"], file_url=f"{hub.url}/cc-100/hi.txt.xz")
    monkeypatch.setitem(sources.SOURCES, "cc100_hi", here)
    manifest = download(Options("cc100_hi", tmp_path), quiet)
    # Blank lines separate its documents. The hub's token is not for this server.
    assert [(line["text"], line["id"]) for line in written(tmp_path)] == [
        ("एक\nदो", "hi.txt.xz:0"),
        ("तीन", "hi.txt.xz:1"),
        ("चार", "hi.txt.xz:3"),
    ]
    assert manifest.skipped == {"not UTF-8": 1}
    assert hub.requests
    assert not any("authorization" in headers for _, _, headers in hub.requests)
    with pytest.raises(UserError, match="--files=x: is for repositories"):
        download(Options("cc100_hi", tmp_path, files="x"), quiet)


def test_text_that_is_not_utf8_in_a_table(hub: StandInHub, tmp_path: Path) -> None:
    good, bad = b"good", b"\xff\xfe"
    column = pa.array([good, bad, good], pa.binary()).view(pa.utf8())
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": column}), sink)
    hub.add("kartikagg98/HINMIX_hi-en", {"lcsalign-hicmrom/train-0.parquet": sink.getvalue()})
    manifest = download(Options("hinglish", tmp_path), quiet)
    assert [line["text"] for line in written(tmp_path)] == ["good", "good"]
    assert manifest.skipped == {"not UTF-8": 1}


def test_broken_connections_and_busy_server(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(network, "_BLOCK_BYTES", 1000)
    hub.add(WIKI, wiki_files())
    hub.refusals[WIKI] = [503, 500]
    hub.refusals["00001-of-00003.parquet"] = [503, 429]
    hub.drops["00000-of-00003.parquet"] = [0, 300, 999]
    hub.drops["00002-of-00003.parquet"] = [10, 10]
    download(Options("wikipedia_hi", tmp_path), quiet)
    assert written(tmp_path) == wiki_lines(30)
    assert not any([*hub.refusals.values(), *hub.drops.values()])


def test_a_server_that_cannot_be_reached_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor do libraries say the same before."""
    here = replace(SOURCES["cc100_hi"], file_url=f"http://127.0.0.1:{free_port()}/hi.txt.xz")
    monkeypatch.setitem(sources.SOURCES, "cc100_hi", here)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:\d+/hi.txt.xz: .*--mirror"):
        download(Options("cc100_hi", tmp_path), quiet)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_network_trouble_is_told_in_one_line(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"wikimedia/wikipedia: the server answered: .*404"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    hub.add(WIKI, {"20231101.hi/other.txt": b"x"})
    with pytest.raises(UserError, match=r"wikipedia_hi: no file \*/train-\*.parquet"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    hub.add(WIKI, wiki_files())
    with pytest.raises(UserError, match="--files=x: matches none of 3 files"):
        download(Options("wikipedia_hi", tmp_path, files="x"), quiet)
    hub.ranges = False
    monkeypatch.setattr(network, "_BLOCK_BYTES", 1000)
    with pytest.raises(UserError, match="must support range requests"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot reach wikimedia/wikipedia.*--mirror"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_file_shorter_than_it_was_listed(hub: StandInHub) -> None:
    hub.web["/short"] = bytes(100)
    with (
        pytest.raises(UserError, match=r"asked for bytes 0 to 119, got status 206 with 100 bytes"),
        network.RangeFile(f"{hub.url}/short", 120, {}) as file,
    ):
        file.read(10)


def test_damaged_files(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, {"20231101.hi/train-0.parquet": b"PAR1 this is no table PAR1"})
    with pytest.raises(UserError, match=r"train-0.parquet is damaged"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    hub.add(WIKI, {"20231101.hi/train-0.parquet": parquet([{"body": "x"}])})
    with pytest.raises(UserError, match=r"no column 'text' \(columns: body\)"):
        download(Options("wikipedia_hi", tmp_path), quiet)
    hub.add("kartikagg98/HINMIX_hi-en", {"lcsalign-hicmrom/train-0.parquet": parquet([{"text": 3}])})
    with pytest.raises(UserError, match="'text' is int64, not text"):
        download(Options("hinglish", tmp_path), quiet)
    cut = gzip.compress(json.dumps({"text": "x" * 99}).encode())[:-12]
    hub.add("common-pile/stackexchange", {"a/documents/0.jsonl.gz": cut})
    with pytest.raises(UserError, match=r"0.jsonl.gz is damaged"):
        download(Options("stackexchange", tmp_path), quiet)
    # A run that got nothing leaves nothing that binds the next one.
    hub.add(WIKI, wiki_files())
    assert download(Options("wikipedia_hi", tmp_path), quiet).documents == 30


def test_names_from_the_hub_are_no_paths(hub: StandInHub, tmp_path: Path) -> None:
    name = "20231101.hi/../../../train-evil.parquet"
    hub.add(WIKI, {name: parquet([article(0)])})
    out = tmp_path / "a/b/c/d"
    with contextlib.suppress(UserError):  # The client may well normalise the address and miss the file.
        download(Options("wikipedia_hi", out), quiet)
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} <= {out}


def test_a_resumed_run_stays_with_its_commit(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, wiki_files())
    first = download(Options("wikipedia_hi", tmp_path, max_bytes=800), quiet)
    assert 800 <= first.text_bytes < 1000
    hub.add(WIKI, {"20231101.hi/train-00000-of-00001.parquet": parquet([article(99)])}, commit="b" * 40)
    hub.requests.clear()
    download(Options("wikipedia_hi", tmp_path), quiet)
    assert written(tmp_path) == wiki_lines(30)
    # The first file was done: it is not asked for again.
    assert hub.asked_for("00000-of-00003.parquet") == 0
    assert hub.asked_for("00002-of-00003.parquet") > 0
    with pytest.raises(UserError, match=f"another download \\(revision {'a' * 40}\\)"):
        download(Options("wikipedia_hi", tmp_path, revision="b" * 40), quiet)
    newest = download(Options("wikipedia_hi", tmp_path, force=True), quiet)
    assert (newest.revision, newest.documents) == ("b" * 40, 1)


def test_only_some_files(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, wiki_files())
    download(Options("wikipedia_hi", tmp_path, files="*-00001-of-*"), quiet)
    assert written(tmp_path) == wiki_lines(30)[10:20]


def test_mirror_gives_the_same_shards(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, wiki_files())
    mirror = tmp_path / "mirror"
    huggingface_hub.snapshot_download(
        WIKI, repo_type="dataset", local_dir=mirror / WIKI, allow_patterns="20231101.hi/*", endpoint=hub.url
    )
    download(Options("wikipedia_hi", tmp_path / "hub", shard_bytes=2000), quiet)
    hub.requests.clear()
    copied = download(Options("wikipedia_hi", tmp_path / "copy", shard_bytes=2000, mirror=mirror), quiet)
    assert not hub.requests
    # huggingface_hub noted the commit beside the copies.
    assert (copied.origin, copied.revision) == ("mirror", "a" * 40)
    assert written(tmp_path / "copy") == wiki_lines(30)
    for shard in copied.shards:
        assert sha256_file(tmp_path / "hub" / shard.name) == shard.sha256
    # What was begun on the network goes on from the mirror.
    download(Options("wikipedia_hi", tmp_path / "both", max_bytes=800), quiet)
    download(Options("wikipedia_hi", tmp_path / "both", mirror=mirror), quiet)
    assert written(tmp_path / "both") == wiki_lines(30)


def test_mirror_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--mirror=.*wikimedia/wikipedia/20231101.hi is missing"):
        download(Options("wikipedia_hi", tmp_path / "out", mirror=tmp_path), quiet)
    with pytest.raises(UserError, match=r"data.statmt.org/cc-100/hi.txt.xz is missing"):
        download(Options("cc100_hi", tmp_path / "out", mirror=tmp_path), quiet)
    path = tmp_path / "data.statmt.org/cc-100/hi.txt.xz"
    path.parent.mkdir(parents=True)
    path.write_bytes(lzma.compress("एक\n\nदो".encode()))
    manifest = download(Options("cc100_hi", tmp_path / "out", mirror=tmp_path), quiet)
    assert manifest.documents == 2


def test_dry_run_writes_nothing(hub: StandInHub, tmp_path: Path) -> None:
    hub.add(WIKI, wiki_files())
    lines: list[str] = []
    run.download(Options("wikipedia_hi", tmp_path / "out", dry_run=True), lines.append)
    text = "\n".join(lines)
    assert "CC-BY-SA-3.0" in text
    assert "files     3 with" in text
    assert "a" * 40 in text
    assert not (tmp_path / "out").exists()
