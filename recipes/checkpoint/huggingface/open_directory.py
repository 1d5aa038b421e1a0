"""Opener of Hugging Face directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recipes.checkpoint.formats.containers import Files
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer, blob_of, hugging_face_blobs
from recipes.data.tokenizer.file_names import (
    HUGGING_FACE,
    NAMING_FILES,
    SENTENCEPIECE,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
)
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig

CONFIG = "config.json"
TEMPLATES = "additional_chat_templates"


def open_hugging_face(path: Path, files: Files, verify_files: bool) -> StoredModel | None:
    """A model directory of transformers; None for anything else."""
    if not path.is_dir() or files.find(CONFIG) is None:
        return None
    from recipes.checkpoint.huggingface.read import open_huggingface

    found = open_huggingface(path)
    shards = [name for name in files.names() if name.endswith(".safetensors")]
    sizes = {name: blob.size for name in shards if (blob := files.find(name)) is not None}

    def describe(_: int, __: int) -> ModelConfig:
        return found.model

    return StoredModel(
        path=path,
        generation="huggingface",
        version=str(found.config.get("transformers_version") or "") or None,
        kind=f"Hugging Face, {found.config.get('model_type')}, safetensors weights",
        config=found.config,
        tensors=found.tensors,
        tokenizer=_tokenizer(found.tokenizer_files, files),
        describe=describe,
        files=sizes,
        needs_tokenizer=False,
        left_behind=(TEMPLATES,) if files.folder(TEMPLATES).names() else (),
    )


def _tokenizer(paths: Mapping[str, Path], files: Files) -> StoredTokenizer:
    """tokenizer.json decides, as in transformers. A tokenizer.model that encodes alike is preferred, as
    NeMo's formats hold one: a model that came from NeMo goes back with its original file.
    """
    beside = hugging_face_blobs(files)
    if TOKENIZER_MODEL not in paths:
        stored = beside if TOKENIZER_JSON in paths else {}
        return StoredTokenizer(HUGGING_FACE, TOKENIZER_JSON, stored, {} if stored else beside)
    blobs = {TOKENIZER_MODEL: blob_of(paths[TOKENIZER_MODEL])}
    if TOKENIZER_JSON not in paths:
        naming = {name: blob for name, blob in beside.items() if name in NAMING_FILES}
        return StoredTokenizer(SENTENCEPIECE, TOKENIZER_MODEL, {**blobs, **naming}, beside)
    model = StoredTokenizer(SENTENCEPIECE, TOKENIZER_MODEL, blobs, beside)
    stored_json = StoredTokenizer(HUGGING_FACE, TOKENIZER_JSON, beside)
    return model if _encode_alike(model, stored_json) else stored_json


def _encode_alike(first: StoredTokenizer, second: StoredTokenizer) -> bool:
    from recipes.checkpoint.huggingface.tokenizer import PROBES
    from recipes.data.tokenizer.hugging_face import HuggingFaceTokenizer

    try:
        one, other = first.load(), second.load()
    except UserError:  # Reported when the tokenizer is needed.
        return False
    if (one.vocab_size, one.eos_id) != (other.vocab_size, other.eos_id):
        return False
    assert isinstance(other, HuggingFaceTokenizer)
    # A token that is looked for in a text may be spelled like a piece and be chosen where the piece is not.
    probes = (*PROBES, *(f"a{word}b {word}" for word in other.words_looked_for()))
    return all(one.encode(text) == other.encode(text) for text in probes)
