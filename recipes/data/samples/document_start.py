"""Which token stands before every training document, so that prompts can begin as documents did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeGuard

from recipes.data.samples.indexed import Sidecar
from recipes.data.tokenizer import TextTokenizer

DocumentStart = Literal["bos", "eos"] | None
"""bos: preprocessing wrote it before each document. eos: it ended the document before. None: there was no
such token, or it is not known."""


def document_start_of(sidecars: Iterable[Sidecar], *, separate: bool = False) -> DocumentStart:
    """What the training data begin their documents with; None too where data differ.

    Args:
        separate: no token saw the document before its own (data.reset_attention_mask), nor the end of it.
    """
    starts: set[DocumentStart] = {
        "bos" if sidecar.append_bos else "eos" if sidecar.append_eod and not separate else None
        for sidecar in sidecars
    }
    return starts.pop() if len(starts) == 1 else None


def document_start_of_ids(bos_id: Any, eos_id: Any) -> DocumentStart:
    """What a Hugging Face configuration says by its ids: bos_token_id is what readers put before prompts."""
    return None if bos_id is None else "eos" if bos_id == eos_id else "bos"


def document_start_id(start: DocumentStart, tokenizer: TextTokenizer) -> int | None:
    """The token's id; None where there is no such token."""
    return {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, None: None}[start]


def is_document_start(value: Any) -> TypeGuard[DocumentStart]:
    """Whether a stored value is one that this project writes."""
    return value in ("bos", "eos", None)
