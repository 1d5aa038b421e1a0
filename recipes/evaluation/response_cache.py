"""lm-eval's response cache, which knows an answer by its request's text alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from recipes.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.model import CacheHook

    from recipes.inference.text_generator import TextGenerator

OWNER_KEY = "recipes.evaluation.model"


def claim_cache(cache_hook: CacheHook, model: TextGenerator) -> None:
    """Notes in the cache whose answers it holds: another model's would be given silently.

    Raises:
        UserError: it holds another model's.
    """
    if cache_hook.dbdict is None:
        return
    owner = fingerprint(model)
    if cache_hook.dbdict.setdefault(OWNER_KEY, owner) != owner:
        raise UserError(
            f"the response cache {cache_hook.dbdict.filename} belongs to another model than {model.name}: "
            "give each model a cache file of its own, or delete it"
        )


@torch.no_grad()
def fingerprint(model: TextGenerator) -> str:
    """A name for exactly these weights and this tokenizer: what the model makes of one line of text."""
    text = "The quick brown fox jumps over the lazy dog. ऋषियों को सताने वाले दुष्ट राक्षसों का राजा।"
    ids = model.encode(text)[: model.max_sequence_length]
    logits = model.logits(torch.tensor([ids], device=model.device))  # [1, s, v]
    seen = hashlib.sha256(repr((model.name, model.vocab_size, model.max_sequence_length, ids)).encode())
    seen.update(logits.float().cpu().numpy().tobytes())
    return seen.hexdigest()
