"""Training tokenizers: what is drawn, what is written, what is refused."""

import gzip
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import sentencepiece

from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.sampling import lines_of
from recipes.data.tokenizer.train import ModelType, train_tokenizer
from recipes.data.tokenizer.train_sentencepiece import SETTINGS
from recipes.errors import UserError
from recipes.files import sha256_file
from tests.support.spy import spy
from tests.support.tokenizer_texts import ENGLISH, HINDI, WORDS, write_jsonl

DEVANAGARI = str.maketrans("0123456789", "०१२३४५६७८९")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.train_tokenizer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_and_loading(corpus: Path, tmp_path: Path) -> None:
    trained = train_tokenizer([corpus], tmp_path / "new" / "tok.v1", vocab_size=330)
    folder = tmp_path / "new"
    assert sorted(path.name for path in folder.iterdir()) == ["tok.v1.json", "tok.v1.model", "tok.v1.vocab"]
    record = json.loads((folder / "tok.v1.json").read_text())
    assert record["model_sha256"] == trained.sha256 == sha256_file(folder / "tok.v1.model")
    assert record["vocab_size"] == 330 and record["inputs"][0]["sha256"] == sha256_file(corpus)
    assert record["settings"]["byte_fallback"] is True
    assert len((folder / "tok.v1.vocab").read_text("utf-8").split("\n")) == 331
    loaded = load_tokenizer(folder / "tok.v1.model")
    assert loaded.encode(HINDI) == trained.encode(HINDI) == pickle.loads(pickle.dumps(loaded)).encode(HINDI)
    # The same training gives the same model, and .vocab is as SentencePiece writes it.
    assert train_tokenizer([corpus], tmp_path / "again", vocab_size=330).sha256 == trained.sha256
    lines = [line for text in [ENGLISH, HINDI, WORDS] * 20 for line in text.split("\n")]
    parts = [part for line in lines for part in re.split("([०-९])", line) if part]
    (tmp_path / "lines.txt").write_text("\n".join(parts), "utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "ref"), vocab_size=330, minloglevel=2,
        model_type="bpe", **SETTINGS,
    )  # fmt: skip
    assert (tmp_path / "ref.vocab").read_bytes() == (folder / "tok.v1.vocab").read_bytes()


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_vocabulary_too_large_or_small(corpus: Path, tmp_path: Path, model_type: Any) -> None:
    with pytest.raises(
        UserError, match=r"of 50,000 is too large for this text: the largest possible is [\d,]+"
    ) as found:
        train_tokenizer([corpus], tmp_path / "tok", vocab_size=50_000, model_type=model_type)
    assert list(tmp_path.iterdir()) == []
    largest = int(str(found.value).split("possible is ")[1].split(";")[0])
    # The number in the message is one that works.
    made = train_tokenizer([corpus], tmp_path / "tok", vocab_size=largest, model_type=model_type)
    assert made.vocab_size == largest
    with pytest.raises(UserError, match=r"of 100 is too small: .* are \d+ already"):
        train_tokenizer([corpus], tmp_path / "small", vocab_size=100, model_type=model_type)


def test_bad_inputs(tmp_path: Path) -> None:
    def refuse(path: Path, message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            train_tokenizer([path], tmp_path / "out" / "tok", vocab_size=300, **options)
        assert not list((tmp_path / "out").glob("*"))

    refuse(tmp_path / "none.jsonl", "cannot read .*none.jsonl: No such file")
    (tmp_path / "empty.txt").touch()
    refuse(tmp_path / "empty.txt", "empty.txt is empty")
    (tmp_path / "blank.txt").write_text(" \n\n\t\n")
    refuse(tmp_path / "blank.txt", "blank.txt has no usable text")
    refuse(write_jsonl(tmp_path / "blank.jsonl", ["", "  "]), "blank.jsonl has no usable text")
    (tmp_path / "nul.txt").write_text("\0\n")
    refuse(tmp_path / "nul.txt", "no usable text")
    refuse(
        write_jsonl(tmp_path / "key.jsonl", ["x"], "content"),
        r"key.jsonl:1: no text under 'text' \(keys: 'content'\)",
    )
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9 \n")
    refuse(tmp_path / "latin.txt", r"latin.txt:2: not UTF-8: .* at byte 3 of the line")
    refuse(tmp_path, "not a regular file")
    good = write_jsonl(tmp_path / "good.jsonl", [ENGLISH])
    refuse(good, "must be positive", max_bytes=-1)
    refuse(good, "one positive weight per input", weights=[1, 2])
    refuse(good, "one positive weight per input", weights=[0])


def test_existing_output(corpus: Path, tmp_path: Path) -> None:
    first = train_tokenizer([corpus], tmp_path / "tok", vocab_size=330)
    with pytest.raises(UserError, match=r"tok.model.* exists already: .* --force"):
        train_tokenizer([corpus], tmp_path / "tok", vocab_size=320)
    assert load_tokenizer(tmp_path / "tok.model").sha256 == first.sha256
    assert train_tokenizer([corpus], tmp_path / "tok", vocab_size=320, force=True).vocab_size == 320
    assert load_tokenizer(tmp_path / "tok.model").vocab_size == 320
    # A .json of somebody else is not ours to replace.
    (tmp_path / "data.json").write_text('{"kind": "indexed dataset"}')
    with pytest.raises(UserError, match="does not describe a tokenizer"):
        train_tokenizer([corpus], tmp_path / "data", vocab_size=330, force=True)
    assert (tmp_path / "data.json").read_text() == '{"kind": "indexed dataset"}'


def test_sampling(tmp_path: Path, corpus: Path) -> None:
    big = write_jsonl(tmp_path / "en.jsonl", [f"{ENGLISH} {number}" for number in range(2000)])
    small = write_jsonl(tmp_path / "hi.jsonl", [HINDI] * 100)

    def used(**options: Any) -> list[int]:
        train_tokenizer([big, small], tmp_path / "tok", vocab_size=330, force=True, **options)
        inputs = json.loads((tmp_path / "tok.json").read_text())["inputs"]
        assert all(item["used_bytes"] <= item["text_bytes"] for item in inputs)
        return [item["used_bytes"] for item in inputs]

    en, hi = used(max_bytes=None)
    assert (en, hi) == (sum(len(f"{ENGLISH} {n}") - 1 for n in range(2000)), 100 * (len(HINDI.encode()) - 1))
    # The bound is of both together, and the inputs keep their proportion.
    sampled = used(max_bytes=50_000)
    assert 45_000 < sum(sampled) <= 50_000 and sampled[1] / sum(sampled) == pytest.approx(
        hi / (en + hi), rel=0.3
    )
    even = used(weights=[1, 1])
    assert even[1] == pytest.approx(hi, rel=0.02) and even[0] == pytest.approx(hi, rel=0.1)
    shares = used(weights=[1, 2], max_bytes=30_000)
    assert shares[1] == pytest.approx(20_000, rel=0.15) and shares[0] == pytest.approx(10_000, rel=0.15)


def test_lines() -> None:
    long = "शब्द " * 20_000
    pieces = list(lines_of(f"a\n\n \nb\u2028c\n{long}\n" + "x" * 40_000))
    assert pieces[:2] == ["a", "b\u2028c"]
    assert "".join(pieces[2:]) == long + "x" * 40_000
    assert all(len(piece.encode()) <= 65_536 for piece in pieces)


def test_command_line(corpus: Path, tmp_path: Path) -> None:
    done = run(corpus, "--out", tmp_path / "tok", "--vocab-size", "0.33e3", "--type", "bpe", "--weights", 1)
    assert done.returncode == 0 and "330 tokens" in done.stderr and done.stdout == ""
    done = run(corpus, "--out", tmp_path / "tok", "--vocab-size", 330, "--type", "unigram")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert run(corpus, "--out", tmp_path / "tok", "--vocab-size", 1e6, "--force").returncode == 2
    assert load_tokenizer(tmp_path / "tok.model").vocab_size == 330


def test_help_imports_nothing_heavy() -> None:
    (done,) = spy(["tools.train_tokenizer", "--help"])
    assert done.code == 0 and "examples:" in done.out
    assert not done.imported & {"sentencepiece", "tokenizers", "numpy", "torch", "transformers"}


def test_interrupted_training_leaves_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, 9))) for _ in range(120_000)]
    (tmp_path / "in.txt").write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, len(words), 10)))
    command = [sys.executable, "-m", "tools.train_tokenizer", str(tmp_path / "in.txt"), "--out"]
    with subprocess.Popen([*command, str(tmp_path / "tok")], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and "B of text" in process.stderr.readline()
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 130
        told = process.stderr.read().splitlines()
        assert told[-1] == "interrupted" and "trainer" not in "".join(told)
    assert os.listdir(tmp_path) == ["in.txt"]  # noqa: PTH208


def test_temperature(tmp_path: Path) -> None:
    """Shares are size^(1/T): of sizes 9 and 1, T=2 makes 3 and 1."""
    big = write_jsonl(tmp_path / "en.jsonl", [f"{ENGLISH} {WORDS} {number:04d}" for number in range(900)])
    small = write_jsonl(tmp_path / "hi.jsonl", [f"{ENGLISH} {WORDS} {number:04d}" for number in range(100)])

    def used(temperature: float, **options: Any) -> tuple[int, int]:
        train_tokenizer(
            [big, small], tmp_path / "tok", vocab_size=330, force=True, temperature=temperature, **options
        )
        first, second = json.loads((tmp_path / "tok.json").read_text())["inputs"]
        return first["used_bytes"], second["used_bytes"]

    for temperature, ratio in ((1, 9.0), (2, 3.0), (1e6, 1.0)):
        en, hi = used(temperature)
        assert en / hi == pytest.approx(ratio, rel=0.1), temperature
    # Nothing is used twice: the small one limits the other.
    assert hi == pytest.approx(small.stat().st_size, rel=0.15)
    en, hi = used(2, max_bytes=40_000)
    assert en + hi <= 40_000 and en == pytest.approx(30_000, rel=0.1)
    assert hi == pytest.approx(10_000, rel=0.3)
    for temperature, options in ((0.5, {}), (float("nan"), {}), (2, {"weights": [1, 1]})):
        with pytest.raises(UserError, match="--temperature="):
            used(temperature, **options)


def test_compressed_inputs(corpus: Path, tmp_path: Path) -> None:
    plain = train_tokenizer([corpus], tmp_path / "plain", vocab_size=330)
    packed = tmp_path / "both.jsonl.gz"
    packed.write_bytes(gzip.compress(corpus.read_bytes()))
    assert train_tokenizer([packed], tmp_path / "packed", vocab_size=330).sha256 == plain.sha256
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged or incomplete"):
        train_tokenizer([packed], tmp_path / "cut", vocab_size=330)


@pytest.mark.parametrize("model_type", ["unigram", "bpe", "byte_bpe"])
def test_digits_of_both_scripts_stand_alone(model_type: Any, tmp_path: Path) -> None:
    """Years are frequent: each would become one token, and its digits unknown to the model."""
    texts = [f"सन् {1900 + i % 7}, फिर {1900 + i % 7} में 12 लोग".translate(DEVANAGARI) for i in range(300)]
    texts += [f"in {1900 + i % 7} 12 men" for i in range(300)] + [HINDI, ENGLISH, WORDS] * 20
    corpus = write_jsonl(tmp_path / "hi.jsonl", texts)
    trained = train_tokenizer([corpus], tmp_path / "tok", vocab_size=340, model_type=model_type)
    for digits in ("1904", "१९०४"):
        tokens = [trained.decode([token]) for token in trained.encode(f"सन् {digits}")]
        assert tokens[-4:] == list(digits)
    pieces = [trained.id_to_piece(token) for token in range(trained.vocab_size)]
    if model_type != "byte_bpe":
        assert {"१", "1"} <= {piece.strip("▁") for piece in pieces}
        assert not [piece for piece in pieces if re.search(r"[०-९]", piece) and len(piece) > 1]


def test_all_of_the_text_is_used_without_a_limit(tmp_path: Path) -> None:
    """Also where lines are given with their ends, which the budget does not count."""
    lines = [*HINDI.split("\n"), WORDS, *ENGLISH.split("\n")] * 80 + ["zebra quartz"] * 200
    corpus = write_jsonl(
        tmp_path / "in.jsonl", ["\n".join(lines[i : i + 4]) for i in range(0, len(lines), 4)]
    )
    for model_type in ("bpe", "byte_bpe"):
        name = tmp_path / model_type
        trained = train_tokenizer([corpus], name, vocab_size=400, model_type=model_type, max_bytes=None)
        record = name / "training.json" if model_type == "byte_bpe" else name.with_suffix(".json")
        (source,) = json.loads(record.read_text())["inputs"]
        assert source["used_bytes"] == source["text_bytes"] == sum(len(line.encode()) for line in lines)
        assert len(trained.encode("zebra quartz")) < 12


def test_places_that_cannot_be_written(corpus: Path, tmp_path: Path) -> None:
    for model_type in ("bpe", "byte_bpe"):
        options: Any = {"model_type": model_type, "vocab_size": 330}
        with pytest.raises(UserError, match=r"cannot write .*jsonl/x.*: Not a directory"):
            train_tokenizer([corpus], corpus / "x", **options)
    for name in (f"{tmp_path}/tok/", f"{tmp_path}/.."):
        with pytest.raises(UserError, match="is a directory's name"):
            train_tokenizer([corpus], name)
    done = run(str(corpus), "--out", str(tmp_path / "x"), "--max-bytes", "inf")
    assert done.returncode == 2 and "--max-bytes: inf is not a whole number of bytes such as" in done.stderr


def test_byte_level_bpe_is_a_directory(corpus: Path, tmp_path: Path) -> None:
    def train(name: str, **options: Any) -> Any:
        return train_tokenizer(
            [corpus], tmp_path / name, model_type="byte_bpe", **{"vocab_size": 400} | options
        )

    trained = train("bytes")
    assert {path.name for path in (tmp_path / "bytes").iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "training.json"
    }  # fmt: skip
    assert trained.vocab_size == 400 and (trained.bos_id, trained.eos_id, trained.pad_id) == (0, 1, 2)
    assert [trained.id_to_piece(token) for token in (0, 1, 2)] == [
        "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
    ]  # fmt: skip
    digits = [trained.decode([token]) for token in trained.encode("1200 १२")]
    assert digits == ["1", "2", "0", "0", " ", "१", "२"]
    assert train("again").sha256 == trained.sha256 == load_tokenizer(tmp_path / "bytes").sha256
    record = json.loads((tmp_path / "bytes" / "training.json").read_text())
    assert record["model_sha256"] == trained.sha256 and record["vocab_size"] == 400
    # As with models: kept if it is the same, not replaced without force, nobody else's directory ever.
    messages: list[str] = []
    train("bytes", log=messages.append)
    assert messages == [f"{tmp_path / 'bytes'}: up to date"]
    with pytest.raises(UserError, match="exists already"):
        train("bytes", vocab_size=390)
    assert train("bytes", vocab_size=390, force=True).vocab_size == 390
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="does not describe a tokenizer"):
        train("mine", force=True)
    with pytest.raises(
        UserError, match=r"of 90,000 is too large for this text: the largest possible is [\d,]+"
    ):
        train("large", vocab_size=90_000)
    with pytest.raises(UserError, match=r"of 100 is too small: .* are 259 already"):
        train("small", vocab_size=100)
    assert not (tmp_path / "large").exists() and not (tmp_path / ".large.partial").exists()


def test_lines_with_their_ends() -> None:
    assert list(lines_of("a\nb\n\n\nc", ends=True)) == ["a\n", "b\n\n", "c"]
    assert list(lines_of("a\n", ends=True)) == ["a\n"]


def test_model_types_of_the_command_line() -> None:
    from tools.train_tokenizer import TYPES

    assert get_args(ModelType) == TYPES
