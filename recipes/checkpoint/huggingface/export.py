"""A whole Hugging Face directory from a stored model of any kind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from recipes.checkpoint.huggingface.config import to_generation_config, to_hf_config
from recipes.checkpoint.huggingface.read import TOKENIZER_FILES
from recipes.checkpoint.huggingface.remote import write_remote_code
from recipes.checkpoint.huggingface.tables import EMBEDDING, rules_of
from recipes.checkpoint.huggingface.tokenizer import special_ids, write_tokenizer
from recipes.checkpoint.huggingface.write import DtypeOf, Progress, write_weights
from recipes.checkpoint.sources import Source
from recipes.checkpoint.sources.source import LARGEST_TOKENIZER


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
    if tokenizer.library == "sentencepiece" and tokenizer.blob is not None:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "tokenizer.model"
            file.write_bytes(tokenizer.blob.read(LARGEST_TOKENIZER))
            start = source.document_start
            warnings = write_tokenizer(
                directory, file, document_start=start, max_length=source.model.max_position_embeddings
            )
        ids = special_ids(source.text_tokenizer, start)
        return {"bos_id": ids.bos, "eos_id": ids.eos, "pad_id": ids.pad}, warnings
    for name in TOKENIZER_FILES:
        beside = source.path / name
        if beside.is_file():
            (directory / name).write_bytes(beside.read_bytes())
    known = {f"{kind}_id": source.config.get(f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return known, ["the tokenizer is no SentencePiece model: its files were carried along as they are"]
