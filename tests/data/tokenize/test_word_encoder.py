"""Encoding word by word gives SentencePiece's own tokens; models for which it would not are told apart."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.text.documents import read_texts
from recipes.data.tokenize import word_encoder as words
from recipes.data.tokenize.word_encoder import BatchEncoder, is_separable
from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.compressed import compressed

TEXT = "the river rises in the hills  and falls\n नदी पहाड़ों से निकलती है।   नावें चावल ले जाती हैं " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words")
    (path / "in.txt").write_text(f"{TEXT}\n" * 20, "utf-8")
    for kind, size in (("bpe", 360), ("unigram", 295)):
        train_tokenizer([path / "in.txt"], path / kind, vocab_size=size, model_type=kind)
    return path


def test_which_models(folder: Path) -> None:
    assert is_separable((folder / "bpe.model").read_bytes())
    assert not is_separable((folder / "unigram.model").read_bytes())
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString((folder / "bpe.model").read_bytes())
    proto.pieces[300].piece = "a▁b"
    assert not is_separable(proto.SerializeToString())


@settings(deadline=None, max_examples=200)
@given(
    texts=st.lists(st.text(st.sampled_from("theriv  \n\tनदीपहाड़ों▁🙂x"), max_size=60), max_size=4),
    most=st.sampled_from([0, 3, 400_000]),
    longest=st.sampled_from([0, 2, 64]),
)
def test_same_tokens(folder: Path, texts: list[str], most: int, longest: int) -> None:
    tokenizer = load_tokenizer(folder / "bpe.model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_MOST_WORDS", most)
        patch.setattr(words, "_LONGEST_WORD", longest)
        encoder = BatchEncoder(tokenizer, "int32", by_words=True)
        for batch in (texts, [TEXT], texts):
            ids = tokenizer.encode_batch(batch) if batch else []
            expected = [tokens.astype(np.int32).tobytes() for tokens in ids]
            assert encoder.encode(batch) == expected


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
def test_texts_of_any_file(tmp_path: Path, suffix: str) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("एक\ntwo\n", "utf-8")
    assert list(read_texts(compressed(lines, suffix), "text")) == ["एक\n", "two\n"]
    records = tmp_path / "a.jsonl"
    records.write_text("".join(json.dumps({"t": text}) + "\n" for text in ("एक", "two")) + "[]\n")
    texts = read_texts(compressed(records, suffix), "t")
    assert [next(texts), next(texts)] == ["एक", "two"]
    with pytest.raises(UserError, match=rf"a\.jsonl{re.escape(suffix)}:3: not a JSON object but list"):
        next(texts)
