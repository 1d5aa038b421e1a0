"""Whether the lean forward pass computes a model."""

from __future__ import annotations

from functools import cache
from typing import Any

from recipes.console import warn
from recipes.inference.decode.forward import LeanDecoder
from recipes.inference.decode.weights import Unknown, read_weights


def lean_decoder(gpt: Any, vocab_size: int, slots: int, max_length: int) -> LeanDecoder | None:
    """The lean forward pass on a GPTModel's weights; None, after a warning that says why, if it has none."""
    try:
        weights = read_weights(gpt, vocab_size)
    except Unknown as reason:
        _warn_once(str(reason))
        return None
    return LeanDecoder(weights, slots, max_length)


@cache
def _warn_once(reason: str) -> None:
    warn(f"every new token takes a pass over the whole text: {reason}")
