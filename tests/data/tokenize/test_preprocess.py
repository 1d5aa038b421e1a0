"""JSONL to .bin/.idx: megatron-core's bytes, for any number of workers, whole or not at all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.samples.indexed import Sidecar, check_prefix
from recipes.data.tokenize import preprocess as module
from recipes.data.tokenize.partial import PartialOutput
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.data.tokenizer.sentencepiece_model import SentencePieceTokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from recipes.files import sha256_file
from tests.support.compressed import compressed
from tests.support.spy import spy

TEXTS = [
    "The river rises in the hills.\nBoats carry rice.\n\n",
    "नदी पहाड़ों से निकलती है।\nनावें चावल ले जाती हैं।",
    "",
    "क़लम ▁ \u200d x²",
    "  \n",
    "a" * 500,
]


def write_jsonl(path: Path, texts: list[str], ascii_only: bool = False) -> Path:
    lines = (json.dumps({"text": text}, ensure_ascii=ascii_only) + "\n" for text in texts)
    path.write_text("".join(lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(
        [write_jsonl(folder / "in.jsonl", TEXTS * 9)], folder / "tok", vocab_size=310, model_type="bpe"
    )
    return folder / "tok.model"


def by_megatron(
    prefix: Path, texts: list[str], tokenizer: TextTokenizer, eod: bool = True, bos: bool = False
) -> None:
    """What Megatron-LM's own preprocessing does with these documents."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(tokenizer.vocab_size))
    for text in texts:
        ids = tokenizer.encode(text)
        if ids:
            ids = [tokenizer.bos_id] * bos + ids + [tokenizer.eos_id] * eod  # type: ignore[list-item]
            builder.add_document(np.array(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def same_bytes(one: Path, other: Path) -> bool:
    return all(
        Path(f"{one}{end}").read_bytes() == Path(f"{other}{end}").read_bytes() for end in (".bin", ".idx")
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("eod", "bos"), [(True, False), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize("vocab_size", [310, 65_499, 65_500, 70_000])
def test_bytes_are_megatrons(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eod: bool, bos: bool, vocab_size: int
) -> None:
    monkeypatch.setattr(SentencePieceTokenizer, "vocab_size", vocab_size)
    tokenizer = load_tokenizer(model)
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    made = preprocess([source], model, tmp_path / "ours", append_eod=eod, append_bos=bos)
    by_megatron(tmp_path / "theirs", TEXTS, tokenizer, eod, bos)
    assert same_bytes(tmp_path / "ours", tmp_path / "theirs")
    assert made.dtype == ("uint16" if vocab_size < 65_500 else "int32")
    assert made == check_prefix(tmp_path / "ours")


@settings(deadline=None, max_examples=60)
@given(
    files=st.lists(st.lists(st.text(max_size=30), max_size=8), min_size=1, max_size=3),
    range_bytes=st.integers(1, 200),
    batch_bytes=st.integers(1, 100),
    ascii_only=st.booleans(),
    last_newline=st.booleans(),
)
def test_any_text_any_cutting(
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[str]],
    range_bytes: int,
    batch_bytes: int,
    ascii_only: bool,
    last_newline: bool,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    files = [[*texts, "end"] for texts in files]
    inputs = [write_jsonl(folder / f"{n}.jsonl", texts, ascii_only) for n, texts in enumerate(files)]
    if not last_newline:
        for path in inputs:
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", range_bytes)
        patch.setattr(module, "_BATCH_BYTES", batch_bytes)
        made = preprocess(inputs, model, folder / "ours")
    tokenizer = load_tokenizer(model)
    texts = [text for some in files for text in some]
    by_megatron(folder / "theirs", texts, tokenizer)
    assert same_bytes(folder / "ours", folder / "theirs")

    # And the text comes back.
    kept = [unicodedata.normalize("NFC", text) for text in texts if text]
    tokens = np.fromfile(folder / "ours.bin", dtype=np.uint16)
    ends = np.flatnonzero(tokens == tokenizer.eos_id)
    assert [tokenizer.decode(part[:-1]) for part in np.split(tokens, ends + 1)[:-1]] == kept
    assert (made.documents, made.tokens) == (len(kept), len(tokens))
    assert made.empty_documents == len(texts) - len(kept)
    assert made.text_bytes == sum(len(text.encode()) for text in kept)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{text} {number}" for number in range(1000) for text in TEXTS]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "in.jsonl", texts)


def test_workers_give_the_same_bytes(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 50_000)
    one = preprocess([corpus, corpus], model, tmp_path / "one")
    three = preprocess([corpus, corpus], model, tmp_path / "three", workers=3)
    assert same_bytes(tmp_path / "one", tmp_path / "three")
    assert (one.bin_sha256, one.idx_sha256, one.text_bytes) == (
        three.bin_sha256,
        three.idx_sha256,
        three.text_bytes,
    )
    assert one.bin_sha256 == sha256_file(tmp_path / "three.bin")
    assert one.idx_sha256 == sha256_file(tmp_path / "three.idx")
    # More workers than work.
    preprocess([corpus, corpus], model, tmp_path / "many", workers=2, force=True)


def test_sidecar(model: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    preprocess([source], model, tmp_path / "data.v1")
    assert names(tmp_path) == ["data.v1.bin", "data.v1.idx", "data.v1.json", "in.jsonl"]
    fields = json.loads((tmp_path / "data.v1.json").read_text())
    assert "prefix" not in fields
    assert fields["documents"] == 5 and fields["empty_documents"] == 1
    assert fields["append_eod"] is True and fields["append_bos"] is False
    assert fields["tokenizer_sha256"] == sha256_file(model) and fields["vocab_size"] == 310
    assert fields["inputs"] == [
        {"path": str(source), "bytes": source.stat().st_size, "sha256": sha256_file(source)}
    ]
    assert fields["bin_bytes"] == (tmp_path / "data.v1.bin").stat().st_size == 2 * fields["tokens"]


def test_again(model: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    said: list[str] = []

    def make(**options: Any) -> Sidecar:
        said.clear()
        return preprocess([source], model, tmp_path / "data", log=said.append, **options)

    first = make()
    before = (tmp_path / "data.bin").stat()
    assert make() == make(force=True, workers=2) == first
    assert (tmp_path / "data.bin").stat().st_ino == before.st_ino and "up to date" in said[0]
    for options, difference in (
        ({"append_bos": True}, "append_bos False"),
        ({"text_key": "x"}, "text_key text"),
    ):
        with pytest.raises(UserError, match=rf"data exists, made with {difference}: .*--force"):
            make(**options)
    write_jsonl(source, TEXTS[:2])
    with pytest.raises(UserError, match=r"made with other inputs \(.*in.jsonl\)"):
        make()
    assert check_prefix(tmp_path / "data") == first
    assert make(force=True).documents == 2
    # Damaged data of the same origin is simply made again.
    (tmp_path / "data.bin").write_bytes(b"xx")
    assert make().documents == 2 and "truncated" in said[0]
    check_prefix(tmp_path / "data")


def test_files_of_unknown_origin_stay(model: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    (tmp_path / "data.bin").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"data\.bin exists, of unknown origin"):
        preprocess([source], model, tmp_path / "data")
    assert (tmp_path / "data.bin").read_bytes() == b"precious"
    preprocess([source], model, tmp_path / "data", force=True)
    # Not even --force replaces a .json that is not ours: it may well be the input, or the tokenizer's.
    only = write_jsonl(tmp_path / "own.json", TEXTS)
    for path in (only, model.with_suffix(".json")):
        content = path.read_bytes()
        with pytest.raises(UserError, match="move it away, or choose another prefix"):
            preprocess([source], model, path.with_suffix(""), force=True)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "x"', r"not a line of JSON: Expecting ',' delimiter at character 13"),
        (b"plain", "not a line of JSON"),
        (b"[" * 100_000, "not a line of JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", "'text' is float, not text"),
        (b'["text"]', "not a JSON object but list"),
        (
            b'{"content": "x"}',
            r"no text under 'text' \(keys: 'content'\); name the text's key with --text-key",
        ),
        (b'{"text": 7}', "'text' is int, not text"),
        (b'{"text": "\\ud83d"}', "half of a surrogate pair in the text"),
        (b'{"text": "caf\xe9"}', "not UTF-8: .* at byte 13 of the line"),
    ],
)
def test_bad_lines_are_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str
) -> None:
    check_bad_line(model, tmp_path, monkeypatch, line, message, workers=1)


def test_bad_lines_are_named_by_workers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_bad_line(model, tmp_path, monkeypatch, b"plain", "not a line of JSON", workers=2)


def check_bad_line(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str, workers: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    good = write_jsonl(folder / "good.jsonl", TEXTS)
    bad = folder / "bad.jsonl"
    bad.write_bytes(good.read_bytes() + b"\n" + line + b"\n" + b"also bad\n" + good.read_bytes())
    with pytest.raises(UserError, match=rf"^{bad}:{len(TEXTS) + 2}: {message}"):
        preprocess([good, bad], model, folder / "data", workers=workers)
    assert names(folder) == ["bad.jsonl", "data.partial", "good.jsonl"]


def test_inputs_without_documents(model: Path, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", TEXTS)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n \n")
    write_jsonl(tmp_path / "texts.jsonl", ["", ""])
    for name, message in (
        ("none", "cannot read .*none.jsonl"),
        ("empty", "empty.jsonl is empty"),
        ("blank", "blank.jsonl has no documents"),
        ("texts", "texts.jsonl has no documents"),
    ):
        with pytest.raises(UserError, match=message):
            preprocess([good, tmp_path / f"{name}.jsonl"], model, tmp_path / "data", force=True)
        assert not list(tmp_path.glob("data.???"))


def test_other_refusals(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", TEXTS)
    with pytest.raises(UserError, match="--workers=0: must lie between 1 and 1,024"):
        preprocess([good], model, tmp_path / "data", workers=0)
    monkeypatch.setattr(SentencePieceTokenizer, "bos_id", None)
    with pytest.raises(UserError, match="has no BOS token"):
        preprocess([good], model, tmp_path / "data", append_bos=True)


def test_byte_order_mark_and_windows_lines(model: Path, tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "plain.jsonl", TEXTS)
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))
    preprocess([plain], model, tmp_path / "a")
    preprocess([tmp_path / "bom.jsonl"], model, tmp_path / "b")
    assert same_bytes(tmp_path / "a", tmp_path / "b")


def test_input_that_changes_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS)
    original = module._Tokenize.__call__

    def meddle(*arguments: Any) -> Any:
        os.utime(source, ns=(1, 1))
        return original(*arguments)

    monkeypatch.setattr(module._Tokenize, "__call__", meddle)
    with pytest.raises(UserError, match=r"in\.jsonl changed while it was read"):
        preprocess([source], model, tmp_path / "data")
    assert names(tmp_path) == ["in.jsonl"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tools.preprocess", *map(str, arguments)]


def test_disk_full(model: Path, corpus: Path, tiny_disk: Path, tmp_path: Path) -> None:
    arguments = command(corpus, "--tokenizer", model, "--out", tiny_disk / "data")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {tiny_disk}/data.")
    assert "No space left on device" in done.stderr and done.stderr.count("\n") == 1
    assert names(tiny_disk) in ([], ["data.partial"])
    # With room for it, the same command comes to its end.
    subprocess.run(["mount", "-o", "remount,size=9m", str(tiny_disk)], check=True)
    subprocess.run(arguments, capture_output=True, check=True)
    preprocess([corpus], model, tmp_path / "data")
    assert same_bytes(tiny_disk / "data", tmp_path / "data")


def wait_for_work(prefix: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until the first block is journaled."""
    journal = Path(f"{prefix}.partial") / "journal.jsonl"
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size:
            return
        time.sleep(0.002)
    raise AssertionError("it ended before it could be stopped")


@pytest.fixture(scope="module")
def long_corpus(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "in.jsonl"
    path.write_bytes(corpus.read_bytes() * 20)
    return path


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_run(model: Path, corpus: Path, tmp_path: Path) -> None:
    inputs = [corpus] * 8
    arguments = command(*inputs, "--tokenizer", model, "--out", tmp_path / "data", "--workers", 2)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        wait_for_work(tmp_path / "data", process)
        workers = children(process.pid)
        # A second run on the same prefix is sent away.
        with pytest.raises(UserError, match="another process is writing"):
            preprocess([corpus], model, tmp_path / "data")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == ["data.partial"]
    deadline = time.monotonic() + 240
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers and not any(map(alive, workers))
    said: list[str] = []
    tokenized = count_documents(lambda: preprocess(inputs, model, tmp_path / "data", log=said.append))
    assert names(tmp_path) == ["data.bin", "data.idx", "data.json"]
    found = re.search(r"going on after ([\d,]+) documents? of an earlier run", said[0])
    assert found
    before = int(found[1].replace(",", ""))
    assert before > 0
    made = check_prefix(tmp_path / "data")
    assert tokenized + before == made.documents
    preprocess(inputs, model, tmp_path / "whole")
    assert same_bytes(tmp_path / "data", tmp_path / "whole")
    assert made.bin_sha256 == sha256_file(tmp_path / "data.bin")


def count_documents(run: Callable[[], Any]) -> int:
    """How many documents are tokenized by a run in this process."""
    counted = 0
    original = module._Tokenize.__call__

    def counting(*arguments: Any) -> Any:
        nonlocal counted
        part = original(*arguments)
        counted += len(part.lengths)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Tokenize, "__call__", counting)
        run()
    return counted


class Stop(Exception):
    pass


def stop_after(blocks: int, patch: pytest.MonkeyPatch) -> None:
    """The run ends, as by a kill, when so many blocks are journaled."""
    original = PartialOutput.add

    def add(self: PartialOutput, *arguments: Any) -> None:
        if self.blocks == blocks:
            raise Stop
        original(self, *arguments)

    patch.setattr(PartialOutput, "add", add)


@settings(deadline=None, max_examples=15)
@given(
    stops=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    damage=st.sampled_from(["none", "cut", "flip", "journal", "lengths", "longer"]),
    place=st.floats(0, 1),
    suffix=st.sampled_from(["", ".gz", ".zst"]),
)
def test_stopped_anywhere(
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    stops: list[int],
    damage: str,
    place: float,
    suffix: str,
) -> None:
    """Wherever a run stops, and whatever a power cut then takes from the files: the same bytes in the end."""
    folder = tmp_path_factory.mktemp("stop")
    inputs = [compressed(write_jsonl(folder / f"{n}.jsonl", TEXTS * 2), suffix) for n in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", 150)
        preprocess(inputs, model, folder / "whole")
        for stop in stops:
            with pytest.MonkeyPatch.context() as inner, suppress(Stop):
                stop_after(stop, inner)
                preprocess(inputs, model, folder / "data")
        partial = folder / "data.partial"
        if partial.exists():
            name = {"journal": "journal.jsonl", "lengths": "tokens.idx"}.get(damage, "tokens.bin")
            content = (partial / name).read_bytes()
            at = int(place * (len(content) - 1))
            if damage == "flip":
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            elif damage == "longer":
                content += b"xyz"
            elif damage != "none":
                content = content[:at]
            (partial / name).write_bytes(content)
        # With --force: where nothing sound is left, that is otherwise refused.
        preprocess(inputs, model, folder / "data", force=True)
        assert same_bytes(folder / "data", folder / "whole")
        assert check_prefix(folder / "data").bin_sha256 == sha256_file(folder / "data.bin")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_compressed_inputs(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 50_000)
    own = tmp_path / "in.jsonl"
    own.write_bytes(corpus.read_bytes())
    packed = compressed(own, suffix)
    plain = preprocess([own, own], model, tmp_path / "plain")
    for workers in (1, 3) if suffix == ".zst" else (1,):
        made = preprocess([packed, own], model, tmp_path / f"packed{workers}", workers=workers)
        assert same_bytes(tmp_path / "plain", tmp_path / f"packed{workers}")
        assert (made.text_bytes, made.documents) == (plain.text_bytes, plain.documents)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_bad_compressed_inputs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    good = write_jsonl(tmp_path / "good.jsonl", TEXTS * 20)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(good.read_bytes() + b"plain\n" + good.read_bytes())
    with pytest.raises(UserError, match=rf"bad\.jsonl\{suffix}:{len(TEXTS) * 20 + 1}: not a line of JSON"):
        preprocess([compressed(bad, suffix)], model, tmp_path / "data")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(UserError, match=rf"empty\.jsonl\{suffix} has no documents"):
        preprocess([compressed(empty, suffix)], model, tmp_path / "empty_data")
    packed = compressed(good, suffix)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"good\.jsonl\{suffix} is damaged or incomplete"):
        preprocess([packed], model, tmp_path / "cut_data")


def test_finished_inputs_outlive_a_mistake_in_a_later_one(model: Path, tmp_path: Path) -> None:
    first, second = (write_jsonl(tmp_path / f"{n}.jsonl", TEXTS * (n + 1)) for n in (1, 2))
    content = second.read_bytes()
    second.write_bytes(content + b"oops\n")
    with pytest.raises(UserError, match="not a line of JSON"):
        preprocess([first, second], model, tmp_path / "data")
    second.write_bytes(content)
    tokenized = count_documents(lambda: preprocess([first, second], model, tmp_path / "data"))
    assert tokenized == 5 * 3
    preprocess([first, second], model, tmp_path / "whole")
    assert same_bytes(tmp_path / "data", tmp_path / "whole")


def test_unfinished_work_of_another_kind(model: Path, tmp_path: Path) -> None:
    first, second = (write_jsonl(tmp_path / f"{n}.jsonl", TEXTS * n) for n in (1, 2))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        stop_after(1, patch)
        preprocess([first, second], model, tmp_path / "data")
    for inputs, options in (([first, second], {"append_bos": True}), ([second], {})):
        with pytest.raises(UserError, match=r"data\.partial holds unfinished work .*--force"):
            preprocess(inputs, model, tmp_path / "data", **options)
    assert preprocess([second], model, tmp_path / "data", force=True).documents == 10
    assert not (tmp_path / "data.partial").exists()
    # A directory of somebody else is left alone, even with --force.
    (tmp_path / "own.partial").mkdir()
    (tmp_path / "own.partial" / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"own\.partial exists and is not by tools\.preprocess"):
        preprocess([first], model, tmp_path / "own", force=True)
    assert names(tmp_path / "own.partial") == ["notes.txt"]


@pytest.mark.parametrize("renames", range(4))
def test_stopped_among_the_last_renames(model: Path, tmp_path: Path, renames: int) -> None:
    """The old data or the new, never a description of one beside the other; the next run ends it."""
    old, new = (write_jsonl(tmp_path / f"{n}.jsonl", TEXTS * n) for n in (1, 2))
    preprocess([old], model, tmp_path / "data")
    original = Path.replace
    done = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal done
        if self.parent.name == "data.partial" and self.name in ("tokens.bin", "tokens.idx", "done.json"):
            if done == renames:
                raise Stop
            done += 1
        return original(self, target)

    with pytest.MonkeyPatch.context() as patch, suppress(Stop):
        patch.setattr(Path, "replace", replace)
        preprocess([new], model, tmp_path / "data", force=True)
    assert (tmp_path / "data.json").exists() == (renames == 3)
    tokenized = count_documents(lambda: preprocess([new], model, tmp_path / "data"))
    assert tokenized == 0 and check_prefix(tmp_path / "data").documents == 10
    assert names(tmp_path) == ["1.jsonl", "2.jsonl", "data.bin", "data.idx", "data.json"]


def test_what_is_written_is_read_back(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", TEXTS * 30)
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    said: list[str] = []
    preprocess([source], model, tmp_path / "good", log=said.append)
    found = re.search(
        r"read back (\d+) documents?: tokens as encoded, (\d+) decoded to the very text", said[-1]
    )
    assert found and found[1] == found[2] and 5 <= int(found[1]) <= 16

    original = PartialOutput.add

    def add(self: PartialOutput, mark: Any) -> None:
        original(self, mark)
        if self.blocks == 1:  # A fault of the disk in the first document.
            self.bin_file.flush()
            os.pwrite(self.bin_file.fileno(), b"\x05\x00", 0)

    monkeypatch.setattr(PartialOutput, "add", add)
    with pytest.raises(UserError, match=r"document 0 of .* is not what was encoded, when read back"):
        preprocess([source], model, tmp_path / "data")
    assert not (tmp_path / "data.bin").exists()


def test_interrupted_run(model: Path, long_corpus: Path, tmp_path: Path) -> None:
    arguments = command(long_corpus, "--tokenizer", model, "--out", tmp_path / "data", "--workers", 2)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for_work(tmp_path / "data", process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers
        _, stderr = process.communicate(timeout=240)
    assert (process.returncode, stderr) == (130, b"interrupted\n")
    assert names(tmp_path) == ["data.partial"]


def test_killed_worker(model: Path, long_corpus: Path, tmp_path: Path) -> None:
    arguments = command(long_corpus, "--tokenizer", model, "--out", tmp_path / "data", "--workers", 2)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        wait_for_work(tmp_path / "data", process)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        _, stderr = process.communicate(timeout=240)
    assert process.returncode == 2
    assert stderr == b"error: a worker process died (out of memory?): try fewer --workers\n"
    assert names(tmp_path) == ["data.partial"]


def test_command_line(model: Path, corpus: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)

    (shown,) = spy(["tools.preprocess", "--help"])
    assert shown.code == 0 and "examples:" in shown.out
    assert not shown.imported & {"numpy", "sentencepiece", "tokenizers", "torch"}
    base = [corpus, "--tokenizer", model, "--out", tmp_path / "new" / "data"]
    done = run(*base, "--workers", 2)
    assert (done.returncode, done.stdout) == (0, "") and "6,000 documents" in done.stderr
    assert "up to date" in run(*base).stderr
    done = run(*base, "--append-bos", "--no-append-eod")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert run(*base, "--append-bos", "--no-append-eod", "--force").returncode == 0
    made = check_prefix(tmp_path / "new" / "data")
    assert (made.append_bos, made.append_eod) == (True, False)
    done = run(corpus, "--tokenizer", corpus, "--out", tmp_path / "x")
    assert done.returncode == 2 and "is not a SentencePiece model" in done.stderr
