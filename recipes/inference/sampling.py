"""Choosing the next token, with the meaning and order of operations of NeMo's megatron_gpt inference."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.config.schema import InferenceConfig


def choose_next(
    logits: Tensor, context: Tensor, settings: InferenceConfig, generator: torch.Generator | None
) -> Tensor:
    """Next ids ``[b]`` from logits ``[b, V]`` (real vocabulary) after the tokens ``context`` ``[b, s]``.

    Greedy is the plain argmax. Otherwise: temperature, then the repetition penalty, then top-k, then top-p.
    """
    if settings.greedy:
        return logits.argmax(-1)
    scores = logits.float() / settings.temperature
    scores = penalize_repetition(scores, settings.repetition_penalty, context)
    scores = keep_top_p(keep_top_k(scores, settings.top_k), settings.top_p)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator).squeeze(-1)


def penalize_repetition(scores: Tensor, penalty: float, context: Tensor) -> Tensor:
    """Divides the scores of tokens already in the context, prompt included.

    NeMo divides negative scores too, which makes them likelier; CTRL (Keskar et al. 2019, section 4.1) and
    others multiply those. This follows NeMo.
    """
    if penalty == 1.0:
        return scores
    return scores.scatter(1, context, scores.gather(1, context) / penalty)


def keep_top_k(scores: Tensor, k: int) -> Tensor:
    """All but the k highest scores become -inf; 0 keeps all."""
    if k <= 0 or k >= scores.shape[-1]:
        return scores
    lowest_kept = scores.topk(k, dim=-1).values[:, -1:]
    return scores.masked_fill(scores < lowest_kept, float("-inf"))


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Keeps the likeliest tokens up to the one at which the sum exceeds p (Holtzman et al. 2020); 0: all."""
    if not 0.0 < p < 1.0:
        return scores
    ordered, places = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0.0
    remove = torch.zeros_like(scores, dtype=torch.bool).scatter(1, places, before > p)
    return scores.masked_fill(remove, float("-inf"))
