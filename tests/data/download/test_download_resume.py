"""Interruptions at any point, budgets, and a DIR that holds something else."""

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.console import Progress
from recipes.data.download import download as run
from recipes.data.download import manifest as manifests
from recipes.data.download import shards
from recipes.data.download.download import download
from recipes.data.download.manifest import Manifest
from recipes.data.download.options import Options
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from recipes.files import sha256_file
from tests.support.hub import StandInHub, article, parquet, use_endpoint
from tests.support.paths import ROOT

TEXTS = [f"{number} " + "पाठ " * (number * 7 % 11) for number in range(30)]


class Killed(BaseException):
    """Stands in for the end of the process at one point."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three files, among their lines some that are no documents."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(3):
        texts = TEXTS[number * 10 : number * 10 + 10]
        lines = [json.dumps({"text": text}) for text in [*texts[:5], " ", *texts[5:], ""]]
        (folder / f"{number}.jsonl").write_text("\n".join(lines), "utf-8")
    return [f"{folder}/*.jsonl"]


def quiet(message: str) -> None:
    pass


def texts(out: Path) -> list[str]:
    """What the manifest says is there, having checked that it is."""
    manifest = manifests.load(out)
    if manifest is None:
        return []
    found = []
    for shard in manifest.shards:
        assert sha256_file(out / shard.name) == shard.sha256
        lines = (out / shard.name).read_bytes().splitlines()
        assert len(lines) == shard.documents
        found += [json.loads(line)["text"] for line in lines]
    assert sum(len(text.encode()) for text in found) == manifest.text_bytes
    return found


def expected(budget: int | None) -> list[str]:
    """The documents up to the first that reaches the budget."""
    taken: list[str] = []
    for text in TEXTS:
        if budget is not None and sum(len(one.encode()) for one in taken) >= budget:
            break
        taken.append(text)
    return taken


Step = tuple[int | None, str, int]
STEPS = st.lists(
    st.tuples(
        st.none() | st.integers(1, 2500),
        st.sampled_from(["row", "before shard", "before manifest", "never"]),
        st.integers(1, 12),
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, shard_bytes=st.integers(50, 2000))
def test_any_interruption_gives_a_prefix(
    inputs: list[str], tmp_path_factory: pytest.TempPathFactory, steps: list[Step], shard_bytes: int
) -> None:
    out = tmp_path_factory.mktemp("any")
    with patch("recipes.files.os.fsync"):  # slow, and only for power cuts
        go_on_after_interruptions(inputs, out, steps, shard_bytes)


def go_on_after_interruptions(inputs: list[str], out: Path, steps: list[Step], shard_bytes: int) -> None:
    had: list[str] = []
    for budget, where, count in steps:
        options = Options("local", out, inputs=inputs, max_bytes=budget, shard_bytes=shard_bytes)
        try:
            interrupted(options, where, count)
        except Killed:
            assert where != "never"
        except UserError as error:
            assert "already, more than" in str(error)
            assert budget is not None
            assert sum(len(text.encode()) for text in had) >= budget
        else:
            assert texts(out)[: len(expected(budget))] == expected(budget)
        now = texts(out)
        assert now == TEXTS[: len(now)]
        assert now[: len(had)] == had
        had = now
    final = download(Options("local", out, inputs=inputs, shard_bytes=shard_bytes), quiet)
    assert texts(out) == TEXTS
    assert final.skipped == {"empty text": 6}
    assert final.status == "complete"


def interrupted(options: Options, where: str, count: int) -> None:
    """Download, killed when something happens for the `count`-th time (if it does)."""
    left = count

    def once_more() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    def save(self: Manifest, directory: Path) -> None:
        once_more()
        original_save(self, directory)

    def to_line(*arguments: Any) -> bytes:
        once_more()
        return original_line(*arguments)

    def finish(self: Any) -> None:
        once_more()
        original_finish(self)

    original_save, original_line, original_finish = Manifest.save, run.to_line, shards.ShardFile.finish
    patches = {
        "row": patch.object(run, "to_line", to_line),
        "before shard": patch.object(shards.ShardFile, "finish", finish),
        "before manifest": patch.object(Manifest, "save", save),
    }
    if where == "never":
        download(options, quiet)
        return
    with patches[where]:
        download(options, quiet)


def test_interrupted_shards_are_those_of_one_run(inputs: list[str], tmp_path: Path) -> None:
    whole = download(Options("local", tmp_path / "whole", inputs=inputs, shard_bytes=400), quiet)
    for count in range(2, 9, 2):
        options = Options("local", tmp_path / "parts", inputs=inputs, shard_bytes=400)
        with pytest.raises(Killed):
            interrupted(options, "before manifest", 3)
        with pytest.raises(Killed):
            interrupted(options, "row", count)
    parts = download(Options("local", tmp_path / "parts", inputs=inputs, shard_bytes=400), quiet)
    assert parts.shards == whole.shards
    assert (parts.position, parts.skipped) == (whole.position, whole.skipped)


def test_byte_budget(inputs: list[str], tmp_path: Path) -> None:
    total = sum(len(text.encode()) for text in TEXTS)
    sizes = [len(text.encode()) for text in TEXTS]
    first_five = sum(sizes[:5])
    for budget, count in [(1, 1), (first_five, 5), (first_five + 1, 6), (total, 30), (total + 1, 30)]:
        out = tmp_path / str(budget)
        manifest = download(Options("local", out, inputs=inputs, max_bytes=budget), quiet)
        assert texts(out) == TEXTS[:count]
        assert manifest.status == ("complete" if budget > total else "budget reached")
        before = (out / "manifest.json").read_bytes()
        said: list[str] = []
        download(Options("local", out, inputs=inputs, max_bytes=budget), said.append)
        assert said[0].startswith("up to date")
        assert (out / "manifest.json").read_bytes() == before
    with pytest.raises(UserError, match="raise the budget, or --force"):
        download(Options("local", tmp_path / str(total), inputs=inputs, max_bytes=100), quiet)


def test_token_budget(inputs: list[str], tmp_path: Path) -> None:
    model = tmp_path / "tok.model"
    with model.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS),
            model_writer=stream,
            vocab_size=300,
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    tokenizer = load_tokenizer(model)
    counts = [len(tokenizer.encode(unicodedata.normalize("NFC", text))) for text in TEXTS]
    out = tmp_path / "out"
    options = Options("local", out, inputs=inputs, max_tokens=sum(counts[:7]) + 1, tokenizer=model)
    manifest = download(options, quiet)
    assert texts(out) == TEXTS[:8]
    assert (manifest.tokens, manifest.status) == (sum(counts[:8]), "budget reached")
    assert json.loads((out / "manifest.json").read_text("utf-8"))["tokens"] == sum(counts[:8])
    more = Options("local", out, inputs=inputs, max_tokens=sum(counts[:20]), tokenizer=model)
    assert download(more, quiet).tokens == sum(counts[:20])
    assert texts(out) == TEXTS[:20]
    with pytest.raises(UserError, match=f"tokenizer_sha256 {tokenizer.sha256}"):
        download(Options("local", out, inputs=inputs), quiet)


def test_another_download_in_the_same_place(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    download(Options("local", out, inputs=inputs, shard_bytes=400), quiet)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "x"}\n', "utf-8")
    for wrong, message in [
        (Options("local", out, inputs=inputs, shard_bytes=401), "shard_bytes 400"),
        (Options("local", out, inputs=inputs, shard_bytes=400, compress="gz"), "compress None"),
        (Options("local", out, inputs=[str(other)], shard_bytes=400), r"0\.jsonl as it was then"),
        (Options("local", out, inputs=[*inputs, str(other)], shard_bytes=400), "3 files"),
    ]:
        with pytest.raises(UserError, match=rf"another download \({'.*' if '0' in message else ''}{message}"):
            download(wrong, quiet)
    assert texts(out) == TEXTS
    replaced = download(Options("local", out, inputs=[str(other)], force=True), quiet)
    assert texts(out) == ["x"]
    assert {path.name for path in out.iterdir()} == {"manifest.json", replaced.shards[0].name}


def test_files_of_unknown_origin(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Options("local", out, inputs=inputs, shard_bytes=400)
    download(options, quiet)
    (out / "local-00000.jsonl").write_text("", "utf-8")
    with pytest.raises(UserError, match=r"local-00000.jsonl has 0 bytes, not \d+"):
        download(options, quiet)
    (out / "local-00000.jsonl").unlink()
    with pytest.raises(UserError, match=r"local-00000.jsonl, which .* names, is missing"):
        download(options, quiet)
    for damaged in ("{", '{"kind": "other", "version": 1}', "[]", "{}"):
        (out / "manifest.json").write_text(damaged, "utf-8")
        with pytest.raises(UserError, match=r"is not a manifest of a download, or is damaged"):
            download(options, quiet)
    (out / "manifest.json").unlink()
    assert len(list(out.glob("local-*.jsonl"))) > 1
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    for force in (False, True):  # Whose they are is not known: they are not ours to remove.
        with pytest.raises(UserError, match=r"is of no download that .* knows: move it away"):
            download(replace(options, force=force), quiet)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_a_manifest_names_no_files_elsewhere(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Options("local", out, inputs=inputs, shard_bytes=400)
    download(options, quiet)
    outside = tmp_path / "local-00000.jsonl"
    outside.write_text("mine")
    content = json.loads((out / "manifest.json").read_text("utf-8"))
    content["shards"][0]["name"] = "../local-00000.jsonl"
    (out / "manifest.json").write_text(json.dumps(content), "utf-8")
    for force in (False, True):
        with pytest.raises(UserError, match="is not a manifest of a download, or is damaged"):
            download(replace(options, force=force), quiet)
    assert outside.read_text() == "mine"


def test_force_removes_the_download_and_nothing_else(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    download(Options("local", out, inputs=inputs, shard_bytes=400, compress="gz"), quiet)
    (out / "notes-2024.jsonl").write_text("mine")
    begun = out / f"local-{len(list(out.glob('*.gz'))):05}.jsonl.gz"  # written, not yet in the manifest
    begun.write_bytes(b"half")
    options = Options("local", out, inputs=inputs, force=True)
    download(options, quiet)
    assert {path.name for path in out.iterdir()} == {"manifest.json", "notes-2024.jsonl", "local-00000.jsonl"}
    (out / "mycorpus-20240101.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"mycorpus-20240101.jsonl is of no download"):
        download(options, quiet)
    assert (out / "mycorpus-20240101.jsonl").read_text() == "mine"


def test_inputs_are_not_where_the_output_goes(tmp_path: Path) -> None:
    own = tmp_path / "hi-00000.jsonl"
    own.write_text('{"text": "x"}\n', "utf-8")
    for force in (False, True):
        with pytest.raises(UserError, match=r"--out=.*hi-00000.jsonl lies there"):
            download(Options("local", tmp_path, inputs=[str(own)], force=force), quiet)
    assert own.read_text("utf-8") == '{"text": "x"}\n'
    assert not (tmp_path / "manifest.json").exists()


def test_progress_ends_where_it_said(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals: list[list[int]] = []

    class Recorded(Progress):
        def __init__(self, total: int, *arguments: Any, **settings: Any) -> None:
            super().__init__(total, *arguments, **settings)
            totals.append([total, 0])

        def add(self, amount: int, note: str = "") -> None:
            totals[-1][1] += amount

    monkeypatch.setattr(run, "Progress", Recorded)
    taken = sum(len(text.encode()) for text in expected(1000))
    download(Options("local", tmp_path, inputs=inputs, max_bytes=1000), quiet)
    manifest = download(Options("local", tmp_path, inputs=inputs), quiet)
    stored = [Path(str(file["name"])).stat().st_size for file in manifest.files]
    # By the budget first, then by the files that were not done.
    assert totals[0] == [1000, taken]
    first = next(n for n in range(3) if len(expected(1000)) <= 10 * (n + 1))
    assert totals[1] == [sum(stored[first:])] * 2


def test_one_writer_at_a_time(inputs: list[str], tmp_path: Path) -> None:
    options = Options("local", tmp_path / "out", inputs=inputs, shard_bytes=400, force=True)
    with run._alone_in(options.out), pytest.raises(UserError, match="is being written by another process"):
        download(options, quiet)
    download(options, quiet)


def test_killed_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"20231101.hi/train-{i:05}-of-00012.parquet": parquet([article(i * 9 + row) for row in range(9)])
        for i in range(12)
    }
    with StandInHub(seconds_per_answer=0.05) as hub:
        hub.add("wikimedia/wikipedia", files)
        environment = {**os.environ, "HF_ENDPOINT": hub.url}

        def start(out: Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tools.download", "wikipedia_hi", "--out", str(out)]
            return subprocess.Popen(
                [*command, "--shard-bytes", "1500"],
                cwd=ROOT,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )

        process = start(tmp_path / "killed")
        manifest = tmp_path / "killed/manifest.json"
        while not manifest.exists() or len(json.loads(manifest.read_text("utf-8"))["shards"]) < 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(json.loads(manifest.read_text("utf-8"))["shards"]) < 10

        process = start(tmp_path / "killed")
        assert "continuing after wikipedia_hi-0000" in process.communicate(timeout=240)[1]
        assert process.returncode == 0
        use_endpoint(monkeypatch, hub.url)
        download(Options("wikipedia_hi", tmp_path / "whole", shard_bytes=1500), quiet)
    # Nothing temporary stays, and every shard is the one that an uninterrupted run writes.
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix == ".jsonl"}
        for name in ("killed", "whole")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) >= 10
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {*contents[0], "manifest.json"}


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.download", "wikipedia_hi", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: cannot reach wikimedia/wikipedia")
    assert ended.stderr.count("\n") == 1
    assert "--mirror DIR" in ended.stderr
    assert not (tmp_path / "out").exists()
