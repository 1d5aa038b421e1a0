"""A whole Hugging Face directory from a stored model of any kind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from recipes.checkpoint.huggingface.config import to_generation_config, to_hf_config
from recipes.checkpoint.huggingface.remote import write_remote_code
from recipes.checkpoint.huggingface.tables import EMBEDDING, rules_of
from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.checkpoint.huggingface.write import DtypeOf, Progress, write_weights
from recipes.checkpoint.sources import Source
from recipes.data.tokenizer.files import HUGGING_FACE, SENTENCEPIECE, TOKENIZER_MODEL


def write_huggingface(source: Source, directory: Path, dtype_of: DtypeOf, progress: Progress) -> list[str]:
    """Weights, configuration, tokenizer, and code where transformers has no class; returns warnings.

    Raises:
        UserError: no class in transformers computes the model, or a tensor is left over or missing.
    """
    model = source.model
    rules = rules_of(model)
    ids, warnings = _write_tokenizer(source, directory)
    table = next(rule.ours for rule in rules if rule.theirs == (EMBEDDING,))
    dtype = str(dtype_of(table, source.tensors[table].dtype)).removeprefix("torch.")
    config = to_hf_config(model, dtype=dtype, **ids)
    generation = to_generation_config(**ids, use_cache=config["use_cache"])
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_remote_code(directory, model)
    write_weights(directory, source.tensors, rules, dtype_of, progress)
    return warnings


def _write_tokenizer(source: Source, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """The tokenizer's files, and the ids of bos, eos and pad."""
    tokenizer = source.tokenizer
    if tokenizer.library == SENTENCEPIECE and tokenizer.blobs:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / TOKENIZER_MODEL
            file.write_bytes(tokenizer.files().contents[TOKENIZER_MODEL])
            start = source.document_start
            warnings = write_tokenizer(
                directory, file, document_start=start, max_length=source.model.max_position_embeddings
            )
        ids = special_ids(source.text_tokenizer, start)
        return {"bos_id": ids.bos, "eos_id": ids.eos, "pad_id": ids.pad}, warnings
    if tokenizer.library == HUGGING_FACE and tokenizer.blobs:
        return _copy_tokenizer(source, directory), []
    known = {f"{kind}_id": source.config.get(f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return known, [f"there is no tokenizer in {source.path}: none is written"]


def _copy_tokenizer(source: Source, directory: Path) -> dict[str, Any]:
    """A Hugging Face tokenizer goes as it came; generation_config.json is written anew for the model."""
    for name, content in source.tokenizer.files().contents.items():
        (directory / name).write_bytes(content)
    ids = special_ids(source.text_tokenizer, source.document_start)
    return {"bos_id": ids.bos, "eos_id": ids.eos, "pad_id": ids.pad}
