"""Openers of NeMo's formats: the classic .nemo, packed or unpacked, and NeMo 2 directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.containers import ArchiveFiles, Files
from recipes.checkpoint.formats.weights import Weights, distributed_weights, plain_weights
from recipes.checkpoint.formats.yaml_file import read_yaml
from recipes.checkpoint.nemo.classic_config import OUR_TARGET, from_nemo_config, stored_tokenizer_name
from recipes.checkpoint.nemo.nemo2_config import from_nemo2_config
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer, tokenizer_in_checkpoint
from recipes.console import shown
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig

CLASSIC_CONFIG = "model_config.yaml"
CLASSIC_WEIGHTS = "model_weights"
NEMO2_CONTEXT = "context"
NEMO2_CONFIG = "model.yaml"
NEMO2_WEIGHTS = "weights"


def open_classic(path: Path, files: Files, verify: bool) -> StoredModel | None:
    """A .nemo, or its unpacked directory; None if it is neither."""
    blob = files.find(CLASSIC_CONFIG)
    if blob is None:
        return None
    config = read_yaml(blob)
    weights = distributed_weights(files.folder(CLASSIC_WEIGHTS))
    if weights is None:
        weights = plain_weights(files, tied=config.get("share_embeddings_and_output_weights", True) is True)
    if weights is None:
        raise UserError(
            f"{path}: holds no weights: neither {CLASSIC_WEIGHTS}/ in torch_dist or zarr format nor "
            f"{CLASSIC_WEIGHTS}.ckpt, of one or many ranks"
        )
    is_own = config.get("target") == OUR_TARGET or "recipes" in config
    version = None if is_own else _text(config.get("nemo_version"))

    def describe(pieces: int, rows: int) -> ModelConfig:
        return from_nemo_config(config, tokenizer_vocab_size=pieces, stored_rows=rows)

    return StoredModel(
        path=path,
        generation="classic",
        version=version,
        kind=_kind(
            "this project's .nemo" if is_own else f"classic NeMo {version or ''}", weights, path, files
        ),
        config=config,
        tensors=weights.tensors,
        tokenizer=_classic_tokenizer(config, files),
        describe=describe,
        files=weights.files,
        skipped=weights.skipped,
    )


def open_nemo2(path: Path, files: Files, verify: bool) -> StoredModel | None:
    """A NeMo 2 directory, weights/ and context/; None if it is none."""
    context = files.folder(NEMO2_CONTEXT)
    blob = context.find(NEMO2_CONFIG)
    if blob is None:
        return None
    config = read_yaml(blob)
    weights = distributed_weights(files.folder(NEMO2_WEIGHTS))
    if weights is None:
        raise UserError(f"{path}: holds no distributed checkpoint in {NEMO2_WEIGHTS}/")

    def describe(pieces: int, rows: int) -> ModelConfig:
        return from_nemo2_config(config, tokenizer_vocab_size=pieces, stored_rows=rows)

    return StoredModel(
        path=path,
        generation="nemo2",
        version=None,
        kind=_kind("NeMo 2", weights, path, files),
        config=config,
        tensors=weights.tensors,
        tokenizer=_nemo2_tokenizer(config, context),
        describe=describe,
        files=weights.files,
        skipped=weights.skipped,
    )


def _kind(generation: str, weights: Weights, path: Path, files: Files) -> str:
    if path.is_dir():
        container = "in a directory"
    else:
        container = f"in a {'.nemo' if isinstance(files, ArchiveFiles) else 'compressed .nemo'} archive"
    return f"{generation.strip()}, {weights.layout}, {container}"


def _text(value: Any) -> str | None:
    return shown(value).strip("'\"") if value is not None else None


def _classic_tokenizer(config: dict[str, Any], files: Files) -> StoredTokenizer:
    section = config.get("tokenizer")
    if not isinstance(section, dict):
        raise UserError(f"{files.label}: {CLASSIC_CONFIG}: tokenizer is not a mapping")
    library = section.get("library")
    library = library if isinstance(library, str) else shown(library)
    return tokenizer_in_checkpoint(library, stored_tokenizer_name(section), files)


def _nemo2_tokenizer(config: dict[str, Any], context: Files) -> StoredTokenizer:
    section = config.get("tokenizer")
    if not isinstance(section, dict):
        raise UserError(f"{context.label}: {NEMO2_CONFIG}: tokenizer is not a mapping")
    kind = str(section.get("_target_", "")).rsplit(".", 1)[-1]
    library = {"SentencePieceTokenizer": "sentencepiece", "AutoTokenizer": "huggingface"}.get(kind, kind)
    name = (
        section.get("model_path") or section.get("pretrained_model_name") or section.get("model_name") or ""
    )
    return tokenizer_in_checkpoint(library, str(name), context)
