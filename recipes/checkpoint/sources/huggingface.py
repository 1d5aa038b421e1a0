"""Opener of Hugging Face directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipes.checkpoint.sources.blob import Blob
from recipes.checkpoint.sources.files import Files
from recipes.checkpoint.sources.source import Source
from recipes.checkpoint.sources.tokenizer import StoredTokenizer, blob_of
from recipes.config.schema import ModelConfig
from recipes.data.tokenizer.files import HUGGING_FACE, SENTENCEPIECE, TOKENIZER_JSON, TOKENIZER_MODEL
from recipes.errors import UserError

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
        tokenizer=_tokenizer(found.tokenizer_files),
        describe=describe,
        files={file.name: file.stat().st_size for file in sorted(path.glob("*.safetensors"))},
        needs_tokenizer=False,
    )


def _tokenizer(paths: Mapping[str, Path]) -> StoredTokenizer:
    """tokenizer.json decides, as in transformers. A tokenizer.model that says the same is preferred, for it
    is what NeMo's forms hold: so a model that came from there goes back with the file that it came with.
    """
    blobs = {name: blob_of(path) for name, path in paths.items()}
    stored = StoredTokenizer(HUGGING_FACE, TOKENIZER_JSON, _without(blobs, TOKENIZER_MODEL))
    if TOKENIZER_MODEL not in blobs:
        return stored
    model = StoredTokenizer(SENTENCEPIECE, TOKENIZER_MODEL, {TOKENIZER_MODEL: blobs[TOKENIZER_MODEL]})
    return model if TOKENIZER_JSON not in blobs or _say_the_same(model, stored) else stored


def _say_the_same(first: StoredTokenizer, second: StoredTokenizer) -> bool:
    from recipes.checkpoint.huggingface.tokenizer import PROBES

    try:
        one, other = first.load(), second.load()
    except UserError:  # Whoever needs the tokenizer is told then.
        return False
    if (one.vocab_size, one.eos_id) != (other.vocab_size, other.eos_id):
        return False
    return all(one.encode(text) == other.encode(text) for text in PROBES)


def _without(blobs: Mapping[str, Blob], left_out: str) -> dict[str, Blob]:
    return {name: blob for name, blob in blobs.items() if name != left_out}
