"""What one HTTP request asks the engine for, whichever interface it came by."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.config.serving_schema import ServingConfig
from recipes.inference.requests import Request
from recipes.inference.text_generator import TextGenerator
from recipes.inference.text_stream import TextStream
from recipes.server.chat_template import ChatTemplate
from recipes.server.errors import Refusal

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Served:
    """The model that is served, and what a request may ask of it."""

    model: TextGenerator
    name: str
    max_length: int
    """Tokens of prompt and completion together."""
    limits: ServingConfig
    chat: ChatTemplate | None = None
    """None: the model was not trained for chats."""

    def check_name(self, name: str | None) -> None:
        """Refuses the name of another model."""
        if name is not None and name != self.name:
            raise Refusal(
                f"there is no model {name[:100]!r} here, but {self.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )

    def check_length(self, prompt: Sequence[int], new_tokens: int, field: str) -> None:
        """Refuses an empty prompt, and more tokens than fit.

        Args:
            prompt: its ids.
            new_tokens: at most so many follow.
            field: what the request calls them.
        """
        if not prompt:
            can_begin = self.model.bos_id is not None
            raise Refusal(f"a prompt is empty; give it text{', or add_BOS=true' if can_begin else ''}")
        if self.limits.max_completion_tokens is not None and new_tokens > self.limits.max_completion_tokens:
            raise Refusal(f"{field}: this server allows {self.limits.max_completion_tokens:,}", param=field)
        if len(prompt) + new_tokens > self.max_length:
            raise Refusal(
                f"a prompt has {len(prompt):,} tokens and {field} is {new_tokens:,}; this server's limit for "
                f"both together is {self.max_length:,}",
                param="prompt" if len(prompt) >= self.max_length else field,
                code="context_length_exceeded",
            )

    def check_count(self, completions: int) -> None:
        """Refuses more completions than one request may ask for."""
        if completions > self.limits.max_completions:
            raise Refusal(
                f"asks for {completions:,} completions; this server's limit is "
                f"{self.limits.max_completions:,} per request"
            )

    def check_ids(self, ids: Sequence[int], field: str) -> None:
        """Refuses ids that are no tokens."""
        if ids and not 0 <= min(ids) <= max(ids) < self.model.vocab_size:
            raise Refusal(f"{field}: token ids run from 0 to {self.model.vocab_size - 1:,}", param=field)


def seed_of(seed: int | None, number: int) -> int:
    """The seed of a request's ``number``-th completion of a prompt.

    It depends on nothing else, so that a prompt's answer is the same alone and beside others.
    """
    if seed is None:
        return secrets.randbelow(LARGEST_SEED)
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % LARGEST_SEED


class StopRule:
    """Ends a completion at a stop string; the engine asks after every token.

    Args:
        model: whose tokens they are.
        prompt: the ids before.
        stop: the texts.
    """

    def __init__(self, model: TextGenerator, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._stream = TextStream(model.tokenizer, prompt, stop)
        self._read = 0

    def __call__(self, generated: list[int]) -> bool:
        self._stream.push(generated[self._read :])
        self._read = len(generated)
        return self._stream.stopped_by is not None


@dataclass(frozen=True)
class Asked:
    """One completion, for the engine and for writing the answer."""

    request: Request
    prompt_text: str
    """What it was made of."""
    top: int = 0
    """Of how many likeliest tokens the answer tells; the engine may be asked for more."""
    stop: tuple[str, ...] = ()
    echo: bool = False
    """The answer repeats the prompt."""
    end_token: bool = False
    """The answer's tokens include the one that ends it, though it has no text."""
    trim_start: bool = False
    """The answer begins with its first word: the white space before it belongs to the prompt's template."""
