"""A text has one encoding, whatever a tokenizer's files say about dropout and sampling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from recipes import console
from recipes.checkpoint.huggingface.tokenizer import write_tokenizer
from recipes.data.tokenize.preprocess import preprocess
from recipes.data.tokenizer import hugging_face, load_tokenizer
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.tokenizer_texts import ENGLISH, HINDI

TEXT = f"{ENGLISH} {HINDI}"
TIMES = 20


@pytest.fixture(scope="module")
def plain(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face directory per kind of model, with its tokenizer.model."""
    found = {}
    for kind in ("byte_bpe", "bpe", "unigram"):
        found[kind] = tmp_path_factory.mktemp("plain") / kind
        if kind == "byte_bpe":
            train_tokenizer([corpus], found[kind], vocab_size=400, model_type="byte_bpe")
            (found[kind] / "training.json").unlink()
        else:
            found[kind].mkdir()
            prefix = found[kind].with_name(f"{kind}_model")
            train_tokenizer([corpus], prefix, vocab_size=340, model_type=kind)
            write_tokenizer(found[kind], Path(f"{prefix}.model"), document_start="bos", max_length=64)
    return found


def changed(directory: Path, copy: Path, **model: Any) -> Path:
    shutil.copytree(directory, copy)
    document = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    document["model"] |= model
    (copy / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    return copy


@pytest.mark.parametrize("kind", ["byte_bpe", "bpe"])
@pytest.mark.parametrize("dropout", [0.1, 0.9, 1.0])
def test_bpe_dropout_is_switched_off(
    kind: str, dropout: float, plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = changed(plain[kind], tmp_path / "d", dropout=dropout)
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    if dropout < 1:
        # The library takes up most merges that it has dropped: one encoding in ten differs.
        first = library.encode(TEXT).ids
        assert any(library.encode(TEXT).ids != first for _ in range(1000)), "not random in the first place"
    expected = load_tokenizer(plain[kind] / "tokenizer.json")
    found = load_tokenizer(directory / "tokenizer.json")
    assert all(found.encode(TEXT) == expected.encode(TEXT) for _ in range(TIMES))
    # The same ids, so the same tokenizer: data that was made with one can be trained on with the other.
    assert found.sha256 == expected.sha256
    load_tokenizer(directory / "tokenizer.json")
    assert capsys.readouterr().err == (
        f"warning: {directory}/tokenizer.json: tokenizer.json: model.dropout={dropout} would encode the same "
        "text differently each time, and is switched off here; remove it from the file for programs that "
        "do not\n"
    )


@pytest.mark.parametrize("settings", [{"alpha": 0.1}, {"alpha": 0.1, "nbest_size": 5}, {"nbest_size": -1}])
def test_unigram_sampling_is_switched_off(
    settings: dict[str, Any], plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """tokenizers 0.23 has these settings, and does not read them from the file."""
    directory = changed(plain["unigram"], tmp_path / "d", **settings)
    expected, found = load_tokenizer(plain["unigram"]), load_tokenizer(directory)
    assert all(found.encode(TEXT) == expected.encode(TEXT) for _ in range(TIMES))
    assert found.sha256 == expected.sha256
    names = ", ".join(f"tokenizer.json: model.{key}={value}" for key, value in settings.items())
    assert f"{names} would encode the same text differently each time" in capsys.readouterr().err


def test_settings_that_are_off_say_nothing(
    plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_tokenizer(changed(plain["bpe"], tmp_path / "null", dropout=None))
    load_tokenizer(changed(plain["bpe"], tmp_path / "zero", dropout=0.0))
    load_tokenizer(changed(plain["unigram"], tmp_path / "alpha", alpha=None, nbest_size=None))
    assert capsys.readouterr().err == ""


def test_what_a_later_release_may_read_is_refused(plain: dict[str, Path], monkeypatch: Any) -> None:
    """A random setting that is not known here by its name: found by encoding repeatedly."""
    directory = plain["unigram"]
    load_tokenizer(directory)
    built = Tokenizer.from_str

    def with_sampling(content: str) -> Tokenizer:
        tokenizer = built(content)
        tokenizer.model.alpha = 0.1  # type: ignore[attr-defined]
        return tokenizer

    class Patched:
        from_str = staticmethod(with_sampling)

    monkeypatch.setattr("tokenizers.Tokenizer", Patched)
    monkeypatch.setattr(hugging_face, "_RANDOM", ())
    with pytest.raises(UserError, match=r"tokenizer\.json encodes the same text differently each time"):
        load_tokenizer(directory)


@pytest.mark.parametrize("alone", [False, True])
def test_sampling_in_the_settings_of_a_directory(
    alone: bool, plain: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers hands sp_model_kwargs to SentencePiece."""
    directory = tmp_path / "d"
    shutil.copytree(plain["unigram"], directory)
    sampling = {"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}
    processor = sentencepiece.SentencePieceProcessor(str(directory / "tokenizer.model"), **sampling)
    assert len({tuple(processor.Encode(TEXT)) for _ in range(TIMES)}) > 1, "not random in the first place"
    expected = load_tokenizer(directory / "tokenizer.model").encode(TEXT)
    config = json.loads((directory / "tokenizer_config.json").read_text("utf-8"))
    config["sp_model_kwargs"] = sampling
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    if alone:
        (directory / "tokenizer.json").unlink()
    found = load_tokenizer(directory)
    assert all(found.encode(TEXT) == expected for _ in range(TIMES))
    assert "sp_model_kwargs.enable_sampling" in capsys.readouterr().err


def test_a_sentencepiece_model_carries_no_randomness(plain: dict[str, Path], tmp_path: Path) -> None:
    """Every field of it that sounds random is about training."""
    from sentencepiece import sentencepiece_model_pb2

    content = (plain["unigram"] / "tokenizer.model").read_bytes()
    expected = load_tokenizer(plain["unigram"] / "tokenizer.model").encode(TEXT)
    proto = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore[attr-defined]
    spec = proto.trainer_spec
    spec.shuffle_input_sentence = spec.enable_differential_privacy = True
    spec.differential_privacy_noise_level = 3.0
    spec.self_test_sample_size = 7
    (tmp_path / "x.model").write_bytes(proto.SerializeToString())
    found = load_tokenizer(tmp_path / "x.model")
    assert all(found.encode(TEXT) == expected for _ in range(TIMES))


def test_preprocessing_twice_gives_the_same_files(
    plain: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    directory = changed(plain["byte_bpe"], tmp_path / "d", dropout=0.5)
    made = [
        preprocess([corpus], directory, tmp_path / f"data{workers}", workers=workers).bin_sha256
        for workers in (1, 2)
    ]
    made.append(preprocess([corpus], plain["byte_bpe"], tmp_path / "plain").bin_sha256)
    assert len(set(made)) == 1


@pytest.fixture(autouse=True)
def _forget_warnings() -> None:
    console.warn_once.cache_clear()
