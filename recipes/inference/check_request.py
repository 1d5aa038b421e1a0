"""Refuses requests that cannot be continued."""

from __future__ import annotations

import math
from collections.abc import Sequence

from recipes.errors import UserError
from recipes.inference.requests import MOST_END_IDS, PENALTY_STYLES, Request, Sampling


def check_request(request: Request, max_length: int, vocab_size: int) -> None:
    """
    Args:
        max_length: tokens that prompt and continuation may have together.
        vocab_size: ids are below it.

    Raises:
        UserError: with what is wrong, and what is allowed.
    """
    length = len(request.prompt)
    if request.max_new_tokens < 0:
        raise UserError(f"max_new_tokens={request.max_new_tokens}: must not be negative")
    check_prompt(request.prompt, max_length, new_tokens=min(1, request.max_new_tokens))
    if length + request.max_new_tokens > max_length:
        raise UserError(
            f"a prompt of {length:,} tokens and {request.max_new_tokens:,} new ones do not fit: "
            f"{max_length:,} are read; ask for at most {max_length - length:,}"
        )
    if len(request.end_ids) > MOST_END_IDS:
        raise UserError(f"{len(request.end_ids)} end tokens: at most {MOST_END_IDS} are possible")
    if not 0 <= request.top_logprobs <= vocab_size:
        raise UserError(
            f"top_logprobs={request.top_logprobs}: must lie between 0 and {vocab_size:,}, the vocabulary"
        )
    _check_sampling(request.sampling, vocab_size)


def check_prompt(
    prompt: Sequence[int], max_length: int, name: str = "a prompt", *, new_tokens: int = 1
) -> None:
    """
    Args:
        name: what the message calls it.
        new_tokens: at least so many are to follow.

    Raises:
        UserError: it is empty, or leaves no room for those.
    """
    if not prompt:
        raise UserError(f"{name} is empty; give it text")
    if len(prompt) + new_tokens > max_length:
        raise UserError(f"{name} has {len(prompt):,} tokens; the model reads {max_length:,}; shorten it")


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    ranges = {
        "temperature": 0 < sampling.temperature < math.inf,
        "top_k": sampling.top_k >= 0,
        "top_p": 0 <= sampling.top_p <= 1,
        "min_p": 0 <= sampling.min_p <= 1,
        "repetition_penalty": 0 < sampling.repetition_penalty < math.inf,
        "repetition_penalty_style": sampling.repetition_penalty_style in PENALTY_STYLES,
        "seed": 0 <= sampling.seed < 2**63,
    }
    for name, fits in ranges.items():
        if not fits:
            raise UserError(f"{name}={getattr(sampling, name)}: not possible")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size or math.isnan(bias) or bias == math.inf:
            raise UserError(f"logit_bias of token {token}: {bias}; ids lie below {vocab_size:,}")
