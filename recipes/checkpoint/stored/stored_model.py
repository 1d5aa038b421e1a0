"""A stored model of any generation: what it is, and its tensors, none of which is read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.stored.fits import check_fits, embedding_shape
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer
from recipes.config.validate_model import validate_model
from recipes.console import shown
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig


@dataclass
class StoredModel:
    """A stored model. Reading its tensors needs what :func:`open_stored_model` holds open."""

    path: Path
    generation: str
    """classic, nemo2, training or another opener's word."""
    version: str | None
    """Of the writer, as the files say."""
    kind: str
    """In words."""
    config: dict[str, Any]
    """As it is stored."""
    tensors: Mapping[str, LazyTensor]
    """By canonical name, see names.py."""
    tokenizer: StoredTokenizer
    describe: Callable[[int, int], ModelConfig] = field(repr=False)
    """Reads the configuration: ``describe(tokenizer's size, rows of the stored embedding)``."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Files of weights -> bytes."""
    skipped: int = 0
    """Stored entries that are no weights and were not looked at: extra states, optimizer state."""
    needs_tokenizer: bool = True
    """Whether the configuration leaves the vocabulary's size to the tokenizer."""
    left_behind: tuple[str, ...] = ()
    """Files that belong to the model and have no place in any other form."""

    @cached_property
    def text_tokenizer(self) -> TextTokenizer:
        """The tokenizer, loaded; raises UserError as :meth:`StoredTokenizer.load`."""
        return self.tokenizer.load()

    def check_rows_for(self, tokenizer: TextTokenizer) -> None:
        """
        Raises:
            UserError: the tokenizer has ids that the model does not know.
        """
        pieces, rows = tokenizer.vocab_size, self.model.vocab_size
        if pieces > rows:
            raise UserError(f"{self.path}: its tokenizer has {pieces} pieces, its vocabulary {rows}")

    @property
    def document_start(self) -> str | None:
        """What stood before every document in training: bos or eos; None: nothing did, or nothing says it.

        Raises:
            UserError: the file says something else.
        """
        if self.generation == "huggingface":
            bos = self.config.get("bos_token_id")
            return None if bos is None else "eos" if bos == self.config.get("eos_token_id") else "bos"
        ours = self.config.get("recipes")
        if not isinstance(ours, dict):
            return "bos"  # As NeMo prompts its own.
        start = ours.get("document_start")
        if start is not None and start not in ("bos", "eos"):
            raise UserError(f"{self.path}: recipes.document_start={shown(start)} is neither bos nor eos")
        return start

    @cached_property
    def model(self) -> ModelConfig:
        """The architecture.

        Raises:
            UserError: it cannot be computed here, or the stored tensors are not its.
        """
        rows, _ = embedding_shape(str(self.path), self.tensors)
        pieces = self.text_tokenizer.vocab_size if self.needs_tokenizer else rows
        if pieces > rows:
            raise UserError(f"{self.path}: its tokenizer has {pieces} pieces, its embedding {rows} rows")
        try:
            model = self.describe(pieces, rows)
            validate_model(model)
            check_fits(model, self.tensors)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        return model
