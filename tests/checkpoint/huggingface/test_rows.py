"""A tokenizer with more ids than the model has rows for, by a token that one of its files alone knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from recipes.inference.text_model import load_text_model
from tests.support.nemo_files import MAIN


@pytest.fixture(params=["both", "tokenizer.json", "tokenizer.model"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of which every row is taken, its tokenizer in both forms or in one."""
    path = tmp_path / "hf"
    convert(MAIN / "model.nemo", path, "hf")
    if request.param != "both":
        (path / ({"tokenizer.json", "tokenizer.model"} - {request.param}).pop()).unlink()
    settings = json.loads((path / "tokenizer_config.json").read_bytes())
    pieces = open_stored_model_size(path)
    config = json.loads((path / "config.json").read_bytes())
    assert config["vocab_size"] == pieces
    settings["added_tokens_decoder"][str(pieces)] = {"content": "<extra>", "special": False}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def open_stored_model_size(path: Path) -> int:
    with open_stored_model(path) as source:
        return source.text_tokenizer.vocab_size


@pytest.mark.parametrize("target", ["nemo", "nemo2", "hf"])
def test_conversion_is_refused(target: str, directory: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        convert(directory, tmp_path / "out", target)
    text = str(caught.value)
    assert "pieces, its vocabulary" in text or "lacks the token '<extra>'" in text
    assert not (tmp_path / "out").exists()


def test_completion_is_refused(directory: Path) -> None:
    with pytest.raises(UserError, match=r"pieces, its vocabulary|lacks the token '<extra>'"):
        load_text_model(str(directory))


def test_a_token_that_only_the_settings_know_decides_which_tokenizer_is_read(tmp_path: Path) -> None:
    """tokenizer.model is preferred where both say the same; here a piece is looked for in texts first."""
    convert(MAIN / "model.nemo", tmp_path / "hf", "hf")
    with open_stored_model(tmp_path / "hf") as source:
        assert source.tokenizer.library == "sentencepiece"
        pieces = [source.text_tokenizer.id_to_piece(token) for token in range(300, 440)]
        piece = next(piece for piece in pieces if len(piece) > 2 and "▁" not in piece)
        before = source.text_tokenizer.encode(f"x{piece}{piece[:-1]}")
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_bytes())
    number = str(300 + pieces.index(piece))
    settings["added_tokens_decoder"][number] = {"content": piece, "special": False, "normalized": False}
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    with open_stored_model(tmp_path / "hf") as source:
        ids = source.text_tokenizer.encode(f"x{piece}{piece[:-1]}")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert ids == theirs(f"x{piece}{piece[:-1]}", add_special_tokens=False).input_ids != before
