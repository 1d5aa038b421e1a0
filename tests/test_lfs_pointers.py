"""Files that Git LFS has not fetched are named as such by every reader, whatever they should have been."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.checkpoint.open import open_stored_model
from recipes.config.validate_jobs import validate_model_file
from recipes.data.chat.template_file import template_text
from recipes.data.samples.indexed import check_prefix
from recipes.data.text.compression import open_stream
from recipes.data.tokenizer import load_tokenizer
from recipes.errors import UserError
from tests.support.corpus import TinyData

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
FIXTURES = Path(__file__).parent / "fixtures" / "nemo"


def pointer(path: Path) -> Path:
    path.write_text(POINTER)
    return path


def opened(path: Path) -> None:
    with open_stored_model(path) as stored:
        _ = stored.model
        for tensor in stored.tensors.values():
            tensor.load()


READERS: dict[str, Callable[[Path], object]] = {
    "model.nemo": opened,
    "text.jsonl": open_stream,
    "text.jsonl.gz": open_stream,
    "tokenizer.model": load_tokenizer,
    "chat_template.jinja": lambda path: template_text(None, path.parent),
    "own.jinja": lambda path: template_text(str(path), path.parent),
    "tokenizer_config.json": lambda path: template_text(None, path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pointer_is_called_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a Git LFS pointer, not the file itself: fetch it with git lfs"):
        READERS[name](pointer(tmp_path / name))


def test_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        validate_model_file(str(pointer(tmp_path / "model.nemo")))
    (tmp_path / "notes.nemo").write_text("no archive\n" * 100)
    with pytest.raises(UserError, match=r"notes\.nemo: is no \.nemo archive"):
        validate_model_file(str(tmp_path / "notes.nemo"))


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_tokenized_data(suffix: str, tiny_data: TinyData, tmp_path: Path) -> None:
    for path in tiny_data.directory.glob("train_hi.*"):
        shutil.copy(path, tmp_path)
    pointer(tmp_path / f"train_hi{suffix}")
    with pytest.raises(UserError, match=rf"train_hi{suffix} is a Git LFS pointer"):
        check_prefix(tmp_path / "train_hi")


@pytest.mark.parametrize("name", ["weights/__0_0.distcp", "weights/.metadata", "context/model.yaml"])
def test_inside_a_checkpoint(name: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "nemo2_local" / "ckpt", tmp_path / "ckpt")
    pointer(tmp_path / "ckpt" / name)
    with pytest.raises(UserError, match=f"{Path(name).name} is a Git LFS pointer"):
        opened(tmp_path / "ckpt")
