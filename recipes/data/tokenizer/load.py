"""Loading a tokenizer from where it lies."""

import json
from pathlib import Path
from typing import Any

from recipes.data.tokenizer.base import TextTokenizer
from recipes.data.tokenizer.tokenizer_files import read_tokenizer_files
from recipes.errors import UserError

RECORD_KIND = "tokenizer"
DIRECTORY_RECORD = "training.json"
"""What tools.train_tokenizer writes into a Hugging Face directory; a model's record is PREFIX.json."""


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Load a SentencePiece model, a Hugging Face directory or its tokenizer.json.

    Raises:
        UserError: it cannot be read, is no tokenizer, or not the one that the record of its training
            describes.
    """
    path = Path(path)
    tokenizer = read_tokenizer_files(path).load()
    record = path / DIRECTORY_RECORD if path.is_dir() else path.with_suffix(".json")
    expected = read_record(record).get("model_sha256")
    if expected is not None and expected != tokenizer.sha256:
        raise UserError(f"{path} is not the model that {record} describes (other SHA-256)")
    return tokenizer


def read_record(path: Path, strict: bool = False) -> dict[str, Any]:
    """The record of a training, {} where there is none; `strict` refuses a file of somebody else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        fields = None
    if isinstance(fields, dict) and fields.get("kind") == RECORD_KIND:
        return fields
    if strict and path.exists():
        raise UserError(f"{path} exists and does not describe a tokenizer: choose another name")
    return {}
