"""What completion says once about settings whose meaning surprises people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from recipes.config.schema import InferenceConfig
from recipes.console import warn_once

if TYPE_CHECKING:
    from recipes.inference.requests import Request


USED_BY_SCORES = ("compute_logprob", "all_probs", "add_BOS")


def say_surprises(settings: InferenceConfig, max_length: int) -> None:
    """Settings that greedy completion ignores, NeMo's penalty, and more tokens than there can be.

    Args:
        max_length: tokens that the model reads.
    """
    if settings.compute_logprob:
        _say_unused(settings)
        return
    if settings.tokens_to_generate >= max_length:
        warn_once(
            f"inference.tokens_to_generate={settings.tokens_to_generate:,}: texts end before, with the "
            f"{max_length:,} tokens that the model reads, prompt included"
        )
    usual = "inference.repetition_penalty_style=ctrl"
    plain = InferenceConfig()
    nemo_style = settings.repetition_penalty_style == "nemo"
    if settings.greedy:
        ignored = ["temperature", "top_k", "top_p", "min_p", *(["repetition_penalty"] if nemo_style else [])]
        changed = [name for name in ignored if getattr(settings, name) != getattr(plain, name)]
        if changed:
            named = ", ".join(f"inference.{name}={getattr(settings, name)}" for name in changed)
            hint = f"; {usual} counts the penalty" if "repetition_penalty" in changed else ""
            warn_once(f"{named}: without effect, as inference.greedy=true takes the likeliest token{hint}")
    elif nemo_style and settings.repetition_penalty != 1:
        warn_once(
            f"inference.repetition_penalty={settings.repetition_penalty}: as in NeMo, it divides negative "
            f"logits too, which makes their tokens likelier; {usual} is the usual penalty, 1 is none"
        )


def _say_unused(settings: InferenceConfig) -> None:
    """Scoring draws nothing. 0 and 1 tokens are what NeMo's users write there."""
    plain = InferenceConfig()
    used = {*USED_BY_SCORES, *(["tokens_to_generate"] if settings.tokens_to_generate <= 1 else [])}
    names = [field.name for field in fields(settings) if field.name not in used]
    changed = [name for name in names if getattr(settings, name) != getattr(plain, name)]
    if changed:
        named = ", ".join(f"inference.{name}={getattr(settings, name)}" for name in changed)
        warn_once(f"{named}: without effect, as inference.compute_logprob=true scores prompts")


def say_cut(settings: InferenceConfig, requests: Sequence[Request], max_length: int) -> None:
    """Prompts that leave the model no room for the tokens that were asked for."""
    if settings.tokens_to_generate >= max_length:  # say_surprises() has said it.
        return
    room = [max_length - len(request.prompt) for request in requests]
    cut = [tokens for tokens in room if tokens < settings.tokens_to_generate]
    if cut:
        who = "a prompt leaves" if len(requests) == 1 else f"{len(cut):,} of {len(requests):,} prompts leave"
        warn_once(
            f"inference.tokens_to_generate={settings.tokens_to_generate:,}: {who} room for {min(cut):,} "
            f"of the {max_length:,} tokens that the model reads; the text ends there"
        )
