"""Training tokenizers and loading them."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.data import tokenizer as module
from recipes.data.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer
from recipes.errors import UserError

ENGLISH = (
    "The river rises in the hills and reaches the sea after 1,200 kilometres.\nBoats carry rice and salt."
)
HINDI = "नदी पहाड़ों से निकलती है और १२०० किलोमीटर चलकर समुद्र में मिलती है।\nनावें चावल और नमक ले जाती हैं।"

# Words that share parts, so that there is something to learn.
WORDS = " ".join(
    [
        stem + end
        for stem in ("river", "water", "stream", "bridge", "valley")
        for end in ("s", "side", "ing", "less")
    ]
    + [stem + end for stem in ("नदी", "जल", "पर्वत", "समुद्र", "सेतु") for end in ("मार्ग", "तट", "वासी", "पथ")]
)


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "both.jsonl", [ENGLISH, HINDI, WORDS] * 20)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: Any) -> TextTokenizer:
    return train_tokenizer(
        [corpus], tmp_path_factory.mktemp("tok") / "tok", vocab_size=330, model_type=request.param
    )


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.train_tokenizer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=40))
@example(HINDI)
@example("क़लम फ़र्क़ ज़मीन")  # nukta: decomposed by NFC
@example("क\u200dष क\u200cष \u200b")  # ZWJ, ZWNJ, ZWSP
@example("▁ a▁b▁▁ ")  # SentencePiece's own sign for a space
@example("<s></s><unk><pad><0x0A>")
@example("  two  spaces \t\r\n\n\x00\x1f\u2028…x²ﬁ\ufeff")
@example("e\u0301 Å \U0001f1ee\U0001f1f3")
@example("")
def test_decoding_is_exact(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert tokenizer.unk_id not in ids
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(max_size=20), max_size=5))
def test_batches_agree_with_single_texts(tokenizer: TextTokenizer, texts: list[str]) -> None:
    batch = tokenizer.encode_batch([unicodedata.normalize("NFC", text) for text in texts])
    assert [array.tolist() for array in batch] == [tokenizer.encode(text) for text in texts]
    assert all(array.dtype == np.int32 for array in batch)


def test_older_sentencepiece_without_numpy(tokenizer: TextTokenizer) -> None:
    older = pickle.loads(pickle.dumps(tokenizer))
    older._returns_numpy = False
    texts = [ENGLISH, HINDI, "", "▁"]
    assert [a.tolist() for a in older.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]
    assert all(array.dtype == np.int32 for array in older.encode_batch(texts))


def test_special_tokens_and_settings(tokenizer: TextTokenizer) -> None:
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2, 3)
    assert [tokenizer.id_to_piece(token) for token in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert tokenizer.vocab_size == 330
    assert tokenizer.decode([1, *tokenizer.encode("नदी"), 2]) == "नदी"
    # Digits are single tokens, newlines one byte token, no space is put before the text.
    assert len(tokenizer.encode("2024")) == 4
    assert [tokenizer.id_to_piece(token) for token in tokenizer.encode("\n\n")] == ["<0x0A>", "<0x0A>"]
    assert not tokenizer.id_to_piece(tokenizer.encode("The")[0]).startswith("▁")


def test_decode_refuses_ids_outside(tokenizer: TextTokenizer) -> None:
    for ids in ([330], [-1], [5, 10**6]):
        with pytest.raises(UserError, match="from 0 to 329"):
            tokenizer.decode(ids)


def test_files_and_loading(corpus: Path, tmp_path: Path) -> None:
    trained = train_tokenizer([corpus], tmp_path / "new" / "tok.v1", vocab_size=330)
    folder = tmp_path / "new"
    assert sorted(path.name for path in folder.iterdir()) == ["tok.v1.json", "tok.v1.model", "tok.v1.vocab"]
    record = json.loads((folder / "tok.v1.json").read_text())
    assert record["model_sha256"] == trained.sha256 == module.sha256_file(folder / "tok.v1.model")
    assert record["vocab_size"] == 330 and record["inputs"][0]["sha256"] == module.sha256_file(corpus)
    assert record["settings"]["byte_fallback"] is True
    assert len((folder / "tok.v1.vocab").read_text("utf-8").split("\n")) == 331
    loaded = load_tokenizer(folder / "tok.v1.model")
    assert loaded.encode(HINDI) == trained.encode(HINDI) == pickle.loads(pickle.dumps(loaded)).encode(HINDI)
    # The same training gives the same model, and .vocab is as SentencePiece writes it.
    assert train_tokenizer([corpus], tmp_path / "again", vocab_size=330).sha256 == trained.sha256
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = "\n".join(line for text in [ENGLISH, HINDI, WORDS] * 20 for line in text.split("\n"))
    (tmp_path / "lines.txt").write_text(lines, "utf-8")
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "ref"), vocab_size=330, minloglevel=2,
        **module.SETTINGS,
    )  # fmt: skip
    assert (tmp_path / "ref.vocab").read_bytes() == (folder / "tok.v1.vocab").read_bytes()


def test_broken_models_are_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = tokenizer._model
    path = tmp_path / "tok.model"
    for content in (
        b"",
        b"x",
        model[:-3],
        model[: len(model) // 2],
        b"version https://git-lfs\n",
        b"{}",
        bytes(99),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"tok\.model is not a SentencePiece model"):
            load_tokenizer(path)
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*none.model: No such file"):
        load_tokenizer(tmp_path / "none.model")
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*: Is a directory"):
        load_tokenizer(tmp_path)
    # Another model than PREFIX.json says, though a sound one.
    path.write_bytes(model)
    (tmp_path / "tok.json").write_text(json.dumps({"kind": "tokenizer", "model_sha256": "0" * 64}))
    with pytest.raises(UserError, match="not the model that"):
        load_tokenizer(path)


def test_model_without_eos_is_refused(tmp_path: Path) -> None:
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH] * 9), model_writer=buffer, vocab_size=40, eos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="no end-of-sentence token"):
        TextTokenizer(buffer.getvalue(), "x.model")


def test_foreign_model_without_bytes_or_bos(tmp_path: Path) -> None:
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH] * 9), model_writer=buffer, vocab_size=40, bos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    foreign = TextTokenizer(buffer.getvalue(), "x.model")
    assert foreign.bos_id is None
    assert foreign.decode(foreign.encode("The hills▁and")) == "The hills and"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_vocabulary_too_large_or_small(corpus: Path, tmp_path: Path, model_type: Any) -> None:
    with pytest.raises(
        UserError, match=r"of 50000 is too large for this text: the largest possible is \d+"
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
        assert not any((tmp_path / "out").iterdir())

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
        r"key.jsonl:1: no key 'text' \(keys: 'content'\)",
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
    sampled, all_of_it = used(max_bytes=50_000)
    assert 45_000 < sampled <= 50_000 and all_of_it == hi
    even = used(weights=[1, 1])
    assert even[1] == pytest.approx(hi, rel=0.02) and even[0] == pytest.approx(hi, rel=0.1)
    shares = used(weights=[1, 2], max_bytes=20_000)
    assert shares[1] == pytest.approx(20_000, rel=0.15) and shares[0] == pytest.approx(10_000, rel=0.15)


def test_lines() -> None:
    long = "शब्द " * 20_000
    pieces = list(module._lines(f"a\n\n \nb\u2028c\n{long}\n" + "x" * 40_000))
    assert pieces[:2] == ["a", "b\u2028c"]
    assert "".join(pieces[2:]) == long + "x" * 40_000
    assert all(len(piece.encode()) <= 65_536 for piece in pieces)


def test_command_line(corpus: Path, tmp_path: Path) -> None:
    done = run(corpus, "--out", tmp_path / "tok", "--vocab-size", "0.33e3", "--type", "bpe", "--weights", 1)
    assert done.returncode == 0 and "330 tokens" in done.stderr and done.stdout == ""
    done = run(corpus, "--out", tmp_path / "tok", "--vocab-size", 330)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert run(corpus, "--out", tmp_path / "tok", "--vocab-size", 1e6, "--force").returncode == 2
    assert load_tokenizer(tmp_path / "tok.model").vocab_size == 330


def test_help_is_quick() -> None:
    started = time.monotonic()
    done = run("--help")
    assert done.returncode == 0 and "examples:" in done.stdout
    assert time.monotonic() - started < 2


def test_interrupted_training_leaves_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = ["".join(map(chr, generator.integers(97, 123, 9))) for _ in range(120_000)]
    (tmp_path / "in.txt").write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, len(words), 10)))
    command = [sys.executable, "-m", "tools.train_tokenizer", str(tmp_path / "in.txt"), "--out"]
    with subprocess.Popen([*command, str(tmp_path / "tok")], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and "MB of text" in process.stderr.readline()
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=3) == 130
        assert process.stderr.read() == "interrupted\n"
    assert os.listdir(tmp_path) == ["in.txt"]  # noqa: PTH208
