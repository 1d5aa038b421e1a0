"""Opener of Hugging Face directories."""

from __future__ import annotations

from pathlib import Path

from recipes.checkpoint.sources.blob import Blob
from recipes.checkpoint.sources.files import Files
from recipes.checkpoint.sources.source import Source, StoredTokenizer
from recipes.config.schema import ModelConfig

CONFIG = "config.json"


def open_hugging_face(path: Path, files: Files, verify_files: bool) -> Source | None:
    """A directory of transformers' models; None if it is none."""
    if not path.is_dir() or files.find(CONFIG) is None:
        return None
    from recipes.checkpoint.huggingface.read import open_huggingface

    found = open_huggingface(path)

    def describe(_: int, __: int) -> ModelConfig:
        return found.model

    return Source(
        path=path,
        generation="huggingface",
        version=str(found.config.get("transformers_version") or "") or None,
        kind=f"Hugging Face, {found.config.get('model_type')}, safetensors weights",
        config=found.config,
        tensors=found.tensors,
        tokenizer=_tokenizer(found.tokenizer),
        describe=describe,
        files={file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))},
        needs_tokenizer=False,
    )


def _tokenizer(file: Path | None) -> StoredTokenizer:
    if file is None:
        return StoredTokenizer("huggingface", "tokenizer.json", None)
    return StoredTokenizer("sentencepiece", file.name, Blob(file, 0, file.stat().st_size, str(file)))
