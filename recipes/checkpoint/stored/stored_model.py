"""A stored model of any generation: what it is, and its tensors, none of which is read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.stored.fits import check_fits, embedding_shape
from recipes.checkpoint.stored.stored_tokenizer import StoredTokenizer
from recipes.config.validate_model import validate_model
from recipes.console import shown
from recipes.data.samples.document_start import DocumentStart, document_start_of_ids, is_document_start
from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError
from recipes.families.model_config import ModelConfig


@dataclass
class StoredModel:
    """A stored model. Its tensors can be read within the context of :func:`open_stored_model`."""

    path: Path
    generation: str
    """classic, nemo2, training or huggingface."""
    version: str | None
    """Of the writer, as the files say."""
    kind: str
    """In words."""
    config: dict[str, Any]
    """As it is stored."""
    tensors: Mapping[str, LazyTensor]
    """By canonical name, see formats/names.py."""
    tokenizer: StoredTokenizer
    describe: Callable[[int, int], ModelConfig] = field(repr=False)
    """Reads the configuration: ``describe(tokenizer's size, rows of the stored embedding)``."""
    files: Mapping[str, int] = field(default_factory=dict)
    """Files of weights -> bytes."""
    skipped: int = 0
    """Number of stored entries that are not weights and are not read: extra states, optimizer state."""
    needs_tokenizer: bool = True
    """Whether the configuration leaves the vocabulary's size to the tokenizer."""
    left_behind: tuple[str, ...] = ()
    """Files of the model for which no other format has a place."""
    held: BinaryIO | None = None
    """Open while the model is: keeps a run that goes on from deleting it."""

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
    def document_start(self) -> DocumentStart:
        """What stood before every document in training.

        This project's files record it; of Hugging Face's it is bos_token_id; NeMo prompts its own with BOS.

        Raises:
            UserError: the file says something else.
        """
        if self.generation == "huggingface":
            return document_start_of_ids(self.config.get("bos_token_id"), self.config.get("eos_token_id"))
        section = self.config.get("recipes")
        if not isinstance(section, dict):
            return "bos"
        start = section.get("document_start")
        if not is_document_start(start):
            raise UserError(f"{self.path}: recipes.document_start={shown(start)} is neither bos nor eos")
        return start

    @cached_property
    def model(self) -> ModelConfig:
        """The architecture.

        Raises:
            UserError: no family here computes it, or the stored tensors are not those of such a model.
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
