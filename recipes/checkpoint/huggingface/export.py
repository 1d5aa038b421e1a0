"""A whole Hugging Face directory from a stored model of any kind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.blob import Blob
from recipes.checkpoint.huggingface.chat import (
    GENERATION,
    SETTINGS,
    chat_template,
    dumped,
    generation_of,
    merged_generation,
)
from recipes.checkpoint.huggingface.config import architecture_of, to_generation_config, to_hf_config
from recipes.checkpoint.huggingface.llama_cpp import llama_cpp_warnings
from recipes.checkpoint.huggingface.remote import write_remote_code
from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.checkpoint.huggingface.write import DtypeOf, Progress, write_weights
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer
from recipes.data.tokenizer.file_names import HUGGING_FACE, LIBRARIES, TOKENIZER_JSON, TOKENIZER_MODEL
from recipes.data.tokenizer.tokenizer_files import LARGEST_TOKENIZER
from recipes.families.family import layout_of
from recipes.families.tensors import WORD_EMBEDDINGS

TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_MODEL, SETTINGS)


def write_huggingface(
    source: StoredModel, directory: Path, dtype_of: DtypeOf, progress: Progress, layout: str | None = None
) -> list[str]:
    """Weights, configuration, tokenizer, and code where transformers has no class; returns warnings.

    Args:
        layout: see :func:`recipes.families.family.layout_of`.

    Raises:
        UserError: no class in transformers computes the model, or a tensor is left over or missing.
    """
    model = source.model
    architecture_of(model, layout)  # Refused before anything is written.
    table = layout_of(model, layout).tensors(model)
    ids, warnings = _write_tokenizer(source, directory)
    words = source.tensors[WORD_EMBEDDINGS]
    dtype = str(dtype_of(words.name, words.dtype)).removeprefix("torch.")
    config = to_hf_config(model, dtype=dtype, layout=layout, **ids)
    generation = merged_generation(
        to_generation_config(**ids, use_cache=config["use_cache"]),
        generation_of(source.tokenizer),
        same_model=source.generation == "huggingface",
    )
    for name, content in (("config.json", config), (GENERATION, generation)):
        (directory / name).write_bytes(dumped(content, name))
    write_remote_code(directory, model, layout)
    write_weights(directory, source.tensors, table, dtype_of, progress)
    written = {
        name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).exists()
    }
    return warnings + llama_cpp_warnings(model, written, layout)


def _write_tokenizer(source: StoredModel, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """The tokenizer's files, and the ids of bos, eos and pad."""
    tokenizer = source.tokenizer
    if not tokenizer.blobs or tokenizer.library not in LIBRARIES:
        _copy(directory, tokenizer.beside)
        known = {f"{kind}_id": source.config.get(f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        return known, [f"there is no tokenizer in {source.path}: none is written"]
    start = source.document_start
    warnings: list[str] = []
    if tokenizer.library == HUGGING_FACE or TOKENIZER_JSON in tokenizer.beside:
        _copy(directory, {**tokenizer.blobs, **tokenizer.beside})  # Unchanged.
    else:
        content = tokenizer.files().contents[TOKENIZER_MODEL]
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / TOKENIZER_MODEL
            file.write_bytes(content)
            warnings = write_tokenizer(
                directory, file, document_start=start, max_length=source.model.max_position_embeddings
            )
        _add_chat_template(directory, tokenizer)
    source.check_rows_for(source.text_tokenizer)
    ids = special_ids(source.text_tokenizer, start)
    return {"bos_id": ids.bos, "eos_id": ids.eos, "pad_id": ids.pad}, warnings


def _copy(directory: Path, blobs: Mapping[str, Blob]) -> None:
    for name, blob in blobs.items():
        (directory / name).write_bytes(blob.read(LARGEST_TOKENIZER))


def _add_chat_template(directory: Path, tokenizer: StoredTokenizer) -> None:
    """Adds the source's chat template to the files that were written for a SentencePiece model."""
    templates = chat_template(tokenizer.beside)
    for name, content in templates.items():
        path = directory / name
        if path.exists():
            content = dumped({**json.loads(path.read_bytes()), **json.loads(content)}, name)
        path.write_bytes(content)
    settings = directory / SETTINGS
    if templates and settings.exists():
        # A template writes its turns as text: the special tokens in it have to be found.
        content = json.loads(settings.read_bytes()) | {"split_special_tokens": False}
        settings.write_bytes(dumped(content, SETTINGS))
