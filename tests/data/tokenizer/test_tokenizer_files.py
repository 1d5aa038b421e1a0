"""Directories from strangers: what is read, what is refused, and that nothing in them runs."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoTokenizer

from recipes.data.tokenizer import load_tokenizer
from recipes.data.tokenizer import tokenizer_files as files
from recipes.data.tokenizer.train import train_tokenizer
from recipes.errors import UserError
from tests.support.tokenizer_texts import ENGLISH, HINDI


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "bytes"
    train_tokenizer([corpus], directory, vocab_size=400, model_type="byte_bpe")
    (directory / "training.json").unlink()
    return directory


@pytest.fixture
def directory(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "stranger"))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as found:
        load_tokenizer(path)
    return str(found.value)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def test_a_directory_its_json_and_a_lone_json(directory: Path) -> None:
    expected = load_tokenizer(directory)
    assert load_tokenizer(directory / "tokenizer.json").sha256 == expected.sha256
    (directory / "tokenizer.json").rename(directory / "mine.json")
    # Its neighbours still say which token ends documents.
    assert load_tokenizer(directory / "mine.json").encode(HINDI) == expected.encode(HINDI)
    (directory / "tokenizer_config.json").unlink()
    (directory / "special_tokens_map.json").unlink()
    assert 'no end-of-document token, which must end every document: add "eos_token"' in refused(
        directory / "mine.json"
    )


def test_a_directory_with_a_sentencepiece_model_alone(corpus: Path, tmp_path: Path) -> None:
    model = train_tokenizer([corpus], tmp_path / "tok", vocab_size=330)
    (tmp_path / "dir").mkdir()
    (tmp_path / "tok.model").rename(tmp_path / "dir" / "tokenizer.model")
    assert load_tokenizer(tmp_path / "dir").sha256 == model.sha256
    (tmp_path / "dir" / "tokenizer.model").write_bytes(b"#tiktoken")
    assert "tokenizer.model is not a SentencePiece model" in refused(tmp_path / "dir")


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "holds neither tokenizer.json nor tokenizer.model" in refused(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    assert "have transformers write it" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "none")
    assert "No such file" in refused(tmp_path / "none.json")


def test_code_is_not_looked_at(directory: Path, tmp_path: Path) -> None:
    before = load_tokenizer(directory).sha256
    rewrite(
        directory / "tokenizer_config.json",
        lambda config: config.update(
            auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]}, tokenizer_class="Evil"
        ),
    )
    (directory / "tokenization_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert load_tokenizer(directory).sha256 == before
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_links_out_are_refused(name: str, directory: Path, tmp_path: Path) -> None:
    """The content would travel with a published checkpoint."""
    (directory / name).unlink(missing_ok=True)
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (directory / name).symlink_to(secret)
    assert f"{name} is a link out of its directory" in refused(directory)


def test_links_inside_and_in_the_hubs_cache_are_followed(directory: Path, tmp_path: Path) -> None:
    expected = load_tokenizer(directory).sha256
    (directory / "tokenizer.json").rename(directory / "real.json")
    (directory / "tokenizer.json").symlink_to("real.json")
    assert load_tokenizer(directory).sha256 == expected
    cache = tmp_path / "models--someone--some"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, name in enumerate(("tokenizer.json", "tokenizer_config.json")):
        shutil.copyfile(directory / name, cache / "blobs" / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert load_tokenizer(snapshot).sha256 == expected


def test_huge_files_are_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_TOKENIZER", 1000)
    assert "has more than 1,000 bytes" in refused(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not readable as JSON"),
        (b"\xff\xfe", "is not readable as JSON"),
        (b"[" * 100_000, "is not readable as JSON"),
        (b"[]", "holds no JSON object"),
        (b"{}", "neither BPE nor Unigram"),
        (b'{"model": {"type": "WordPiece", "vocab": {}}}', "neither BPE nor Unigram"),
        (b'{"model": {"type": "BPE"}}', "no tokenizer that can be read"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "no tokenizer that can be read"),
        (
            b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":4294967295},"merges":[]}}',
            "are no vocabulary",
        ),
        (b'{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":[]}}', "are no vocabulary"),
        (b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}', "can be read"),
        (b'{"version":"1.0","model":{"type":"Unigram","vocab":[["a",0]],"unk_id":7}}', "can be read"),
    ],
)
def test_damaged_json(content: bytes, message: str, directory: Path) -> None:
    (directory / "tokenizer.json").write_bytes(content)
    assert message in refused(directory)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_settings(name: str, directory: Path) -> None:
    (directory / name).write_text("[1]")
    assert f"{name} holds no JSON object" in refused(directory)


def test_end_of_document(directory: Path) -> None:
    """special_tokens_map.json, tokenizer_config.json, then the ids of generation_config.json."""
    names, config = directory / "special_tokens_map.json", directory / "tokenizer_config.json"
    end = load_tokenizer(directory).eos_id
    rewrite(config, lambda document: document.update(eos_token="<|pad|>"))
    assert load_tokenizer(directory).eos_id == AutoTokenizer.from_pretrained(directory).eos_token_id == end
    rewrite(names, lambda document: document.pop("eos_token"))
    padding = load_tokenizer(directory).pad_id
    assert (
        load_tokenizer(directory).eos_id == AutoTokenizer.from_pretrained(directory).eos_token_id == padding
    )
    rewrite(config, lambda document: document.update(eos_token={"content": "<|pad|>", "lstrip": False}))
    assert load_tokenizer(directory).eos_id == padding
    rewrite(config, lambda document: document.update(eos_token=None))
    rewrite(names, lambda document: document.update(eos_token="<|end_of_text|>"))
    assert load_tokenizer(directory).eos_id == end
    rewrite(names, lambda document: document.clear())
    generation = directory / "generation_config.json"
    generation.write_text('{"eos_token_id": [1, 7]}')
    assert load_tokenizer(directory).eos_id == 1
    for nothing in ("{}", '{"eos_token_id": 999999}', '{"eos_token_id": "1"}', '{"eos_token_id": []}'):
        generation.write_text(nothing)
        assert "names no end-of-document token" in refused(directory)


def test_a_record_of_another_training_is_refused(directory: Path) -> None:
    record = {"kind": "tokenizer", "model_sha256": "0" * 64}
    (directory / "training.json").write_text(json.dumps(record))
    assert "is not the model that" in refused(directory)


def test_what_travels_is_what_is_needed(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    (directory / "chat_template.jinja").write_text("{{ x }}")
    found = files.read_tokenizer_files(directory)
    assert set(found.contents) == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
    }  # fmt: skip
    assert set(found.stored_as("abc_tokenizer")) == {f"abc_tokenizer/{name}" for name in found.contents}


def test_sentencepiece_models_without_an_end_are_refused_in_directories_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([ENGLISH] * 9), model_writer=buffer, vocab_size=40, eos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(buffer.getvalue())
    assert "no end-of-sentence token" in refused(tmp_path)
