"""tokenizer.json beside the SentencePiece model that it was made from."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.data.tokenizer import TextTokenizer, load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.corpus import TinyData
from tests.support.nemo_files import FIXTURES

HINDI = "नदी पहाड़ों से निकलती है और १२०० किलोमीटर चलकर समुद्र में मिलती है।"
SPECIAL = ("<s>", "</s>", "<unk>", "<pad>")
Train = Callable[..., Path]


@dataclass(frozen=True)
class Pair:
    ours: TextTokenizer
    theirs: Tokenizer
    directory: Path

    def assert_agree(self, text: str) -> None:
        ids = self.ours.encode(text)
        assert self.theirs.encode(text, add_special_tokens=False).ids == ids
        if self.ours.unk_id not in ids:
            assert self.theirs.decode(ids) == self.ours.decode(ids)


def pair_of(directory: Path, model: Path, document_start: str | None = None) -> Pair:
    directory.mkdir(exist_ok=True)
    warnings = write_tokenizer(directory, model, document_start=document_start, max_length=128)
    assert warnings == []
    assert (directory / "tokenizer.model").read_bytes() == model.read_bytes()
    theirs = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Pair(load_tokenizer(model), theirs, directory)


@pytest.fixture(scope="module")
def texts(tiny_data: TinyData) -> list[str]:
    """Documents of the generated corpus."""
    files = [tiny_data.directory / "corpus" / f"train.{language}.jsonl" for language in ("en", "hi")]
    return [json.loads(line)["text"] for file in files for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def trained(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a SentencePiece model of foreign settings."""

    def train(name: str, **options: Any) -> Path:
        prefix = tmp_path_factory.mktemp("foreign") / name
        lines = (line for text in texts[:500] for line in text.split("\n"))
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=lines, model_prefix=str(prefix), vocab_size=500, minloglevel=2, **options
        )
        return prefix.with_suffix(".model")

    return train


IDENTITY = {"normalization_rule_name": "identity"}
FOREIGN: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False, **IDENTITY},
    "prefix_and_trimmed": {"model_type": "unigram", "byte_fallback": True, **IDENTITY},
    "unknown_characters": {"model_type": "bpe", **IDENTITY},
    "user_defined": {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<|user|>", "abc"],
        **IDENTITY,
    },
}


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def own(request: Any, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """As this project trains them."""
    directory = tmp_path_factory.mktemp("own")
    inputs = [tiny_data.directory / "corpus" / f"train.{language}.jsonl" for language in ("en", "hi")]
    train_tokenizer(inputs, directory / "tok", vocab_size=800, model_type=request.param)
    return pair_of(directory / "hf", directory / "tok.model", "eos")


@pytest.fixture(scope="module", params=[*FOREIGN, "nemo"])
def foreign(request: Any, trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "nemo":
        model = FIXTURES / "nemo2_local" / "ckpt" / "context" / "tiny_sp.model"
    else:
        model = trained(request.param, **FOREIGN[request.param])
    return pair_of(tmp_path_factory.mktemp("hf") / "out", model)


# Text that pieces, bytes and special names can be made of.
FRAGMENTS = st.sampled_from(
    [
        *"abcdeftn <>0x1A/s.,\n\t\0अिीक्र🙂漢\u200dﬁ\u00a0\u3000",
        *("  ", "    ", "e\u0301", "<0x0A>", "<0xE2>", "the ", "है", "abc", "<|user|>", "aaaa"),
    ]
)
TEXT = st.one_of(st.text(max_size=40), st.lists(FRAGMENTS, max_size=25).map("".join))


def speaks_of_special_tokens(text: str) -> bool:
    return any(name in unicodedata.normalize("NFC", text) for name in SPECIAL)


@settings(deadline=None, max_examples=300)
@given(text=TEXT.filter(lambda text: not speaks_of_special_tokens(text)))
@example(HINDI)
@example("The river, 1,200 km (3.14%) — it's   far.\n\n\tThe end ")
@example("▁ a▁b▁▁ ")  # SentencePiece's own sign for a space
@example("क\u200dष क\u200cष \u200b🙂👩\u200d👩\u200d👧\U0001f1ee\U0001f1f3")
@example("\x00\x01\x1f\x7f\u2028\ufeff\ufffd\U0010ffff")
def test_own_tokenizers_agree(own: Pair, text: str) -> None:
    own.assert_agree(text)


@settings(deadline=None, max_examples=150)
@given(text=TEXT.filter(lambda text: "▁" not in text and not speaks_of_special_tokens(text)))
@example(HINDI)
@example("   The river  ")
@example("")
def test_foreign_tokenizers_agree(foreign: Pair, text: str) -> None:
    foreign.assert_agree(text)


def test_agree_on_the_corpus(own: Pair, texts: list[str]) -> None:
    for text in [*texts[:300], *texts[-300:], "\n".join(texts)[:100_000]]:
        own.assert_agree(text)


def test_transformers_loads_it(own: Pair) -> None:
    loaded = AutoTokenizer.from_pretrained(own.directory)
    ids = own.ours.encode(HINDI)
    # Documents started after EOS in training: so do texts here.
    assert loaded(HINDI)["input_ids"] == [own.ours.eos_id, *ids]
    assert loaded(HINDI, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(loaded(HINDI)["input_ids"], skip_special_tokens=True) == HINDI
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (
        2,
        2,
        3,
        0,
    )
    assert loaded.model_max_length == 128 and len(loaded) == own.ours.vocab_size
    text = "a , b  . c 's"
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert special_ids(own.ours, "eos").bos == 2 and special_ids(own.ours, "bos").bos == 1
    assert special_ids(own.ours, None).bos is None


@pytest.mark.parametrize(("start", "expected"), [("bos", [1]), (None, [])])
def test_document_start(start: str | None, expected: list[int], tiny_data: TinyData, tmp_path: Path) -> None:
    pair = pair_of(tmp_path / "hf", tiny_data.tokenizer, start)
    ids = [*expected, *pair.ours.encode("a b")]
    assert AutoTokenizer.from_pretrained(pair.directory)("a b")["input_ids"] == ids
    assert pair.theirs.encode("a b").ids == ids
    assert AutoTokenizer.from_pretrained(pair.directory).bos_token_id == 1


def test_prefix_space_is_stated(own: Pair, foreign: Pair) -> None:
    """For llama.cpp's converter, which reads tokenizer_config.json; transformers' ids stay as they are."""
    for pair in (own, foreign):
        says = json.loads((pair.directory / "tokenizer_config.json").read_text("utf-8"))["add_prefix_space"]
        assert says is pair.ours.id_to_piece(pair.ours.encode("a")[0]).startswith("▁")
        loaded = AutoTokenizer.from_pretrained(pair.directory)
        assert loaded(HINDI, add_special_tokens=False)["input_ids"] == pair.ours.encode(HINDI)


def test_known_differences(own: Pair) -> None:
    """What the module's docstring says of special tokens and of bytes."""
    ours = own.ours.encode("a</s>b")
    assert own.ours.eos_id not in ours and own.ours.eos_id in own.theirs.encode("a</s>b").ids
    loaded = AutoTokenizer.from_pretrained(own.directory)
    for text in ("a</s>b", *SPECIAL, "".join(SPECIAL)):
        assert loaded(text, add_special_tokens=False)["input_ids"] == own.ours.encode(text)
    # The bytes of a whole character and one that begins none: kept apart by SentencePiece.
    run = [*own.ours.encode("漢"), own.ours.encode("\n")[0] + 0xFF - 0x0A]
    assert own.ours.decode(run) == "漢\ufffd" and own.theirs.decode(run) == "\ufffd" * 4


def test_known_difference_of_the_space_sign(foreign: Pair) -> None:
    """Where extra spaces are removed and U+2581 is one."""
    same = foreign.theirs.encode("a ▁ b▁").ids == foreign.ours.encode("a ▁ b▁")
    trims = foreign.ours.encode(" a ") == foreign.ours.encode("a")
    assert same != trims


def refuse_alone(directory: Path, model: Path) -> str:
    directory.mkdir()
    (warning,) = write_tokenizer(directory, model, document_start=None, max_length=8)
    assert [path.name for path in directory.iterdir()] == ["tokenizer.model"]
    return warning


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram"}, "its normalisation rules (nmt_nfkc)"),
        ({"model_type": "char", **IDENTITY}, "neither a unigram nor a BPE model"),
        ({"model_type": "unigram", "user_defined_symbols": ["<x>"], **IDENTITY}, "user-defined symbols"),
        ({"model_type": "bpe", "treat_whitespace_as_suffix": True, **IDENTITY}, "spaces in a way of its own"),
    ],
)
def test_what_cannot_be_expressed_leaves_alone(
    options: dict[str, Any], message: str, trained: Train, tmp_path: Path
) -> None:
    if options["model_type"] == "char":
        options = options | {"hard_vocab_limit": False}
    assert message in refuse_alone(tmp_path / "hf", trained("odd", **options))


def test_a_difference_that_nobody_foresaw_leaves_alone(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison before writing is what guards: here it is the library that has gone wrong."""
    model = trained("bytes", model_type="unigram", byte_fallback=True, **IDENTITY)
    monkeypatch.setattr("recipes.checkpoint.huggingface.tokenizer._name_splitter", lambda proto: None)
    assert "tokenizer.json would encode '<0x0A>" in refuse_alone(tmp_path / "hf", model)


def test_no_sentencepiece_model(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"{}")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        write_tokenizer(tmp_path, tmp_path / "x.model", document_start=None, max_length=8)
