"""SentencePiece models behind the common interface."""

import io
import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer.sentencepiece_model import SentencePieceTokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.tokenizer_texts import ENGLISH, HINDI


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: Any) -> SentencePieceTokenizer:
    return train_tokenizer(
        [corpus], tmp_path_factory.mktemp("tok") / "tok", vocab_size=330, model_type=request.param
    )


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
def test_decoding_is_exact(tokenizer: SentencePieceTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert tokenizer.unk_id not in ids
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text(max_size=20), max_size=5))
def test_batches_agree_with_single_texts(tokenizer: SentencePieceTokenizer, texts: list[str]) -> None:
    batch = tokenizer.encode_batch([unicodedata.normalize("NFC", text) for text in texts])
    assert [array.tolist() for array in batch] == [tokenizer.encode(text) for text in texts]
    assert all(array.dtype == np.int32 for array in batch)


def test_older_sentencepiece_without_numpy(tokenizer: SentencePieceTokenizer) -> None:
    older = pickle.loads(pickle.dumps(tokenizer))
    older._returns_numpy = False
    texts = [ENGLISH, HINDI, "", "▁"]
    assert [a.tolist() for a in older.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]
    assert all(array.dtype == np.int32 for array in older.encode_batch(texts))


def test_special_tokens_and_settings(tokenizer: SentencePieceTokenizer) -> None:
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2, 3)
    assert [tokenizer.id_to_piece(token) for token in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert tokenizer.vocab_size == 330
    assert tokenizer.decode([1, *tokenizer.encode("नदी"), 2]) == "नदी"
    # Digits are single tokens, newlines one byte token, no space is put before the text.
    assert len(tokenizer.encode("2024")) == 4
    assert [tokenizer.id_to_piece(token) for token in tokenizer.encode("\n\n")] == ["<0x0A>", "<0x0A>"]
    assert not tokenizer.id_to_piece(tokenizer.encode("The")[0]).startswith("▁")


def test_decode_refuses_ids_outside(tokenizer: SentencePieceTokenizer) -> None:
    for ids in ([330], [-1], [5, 10**6]):
        with pytest.raises(UserError, match="from 0 to 329"):
            tokenizer.decode(ids)


def test_broken_models_are_refused(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
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
    path.unlink()
    with pytest.raises(UserError, match=r"holds neither tokenizer.json nor tokenizer.model"):
        load_tokenizer(tmp_path)
    # Another model than PREFIX.json says, though a sound one.
    path.write_bytes(model)
    (tmp_path / "tok.json").write_text(json.dumps({"kind": "tokenizer", "model_sha256": "0" * 64}))
    with pytest.raises(UserError, match="not the model that"):
        load_tokenizer(path)


def test_model_without_eos_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH] * 9), model_writer=buffer, vocab_size=40, eos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(UserError, match="no end-of-sentence token"):
        SentencePieceTokenizer(buffer.getvalue(), "x.model")


def test_foreign_model_without_bytes_or_bos(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH] * 9), model_writer=buffer, vocab_size=40, bos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    foreign = SentencePieceTokenizer(buffer.getvalue(), "x.model")
    assert foreign.bos_id is None
    assert foreign.decode(foreign.encode("The hills▁and")) == "The hills and"
