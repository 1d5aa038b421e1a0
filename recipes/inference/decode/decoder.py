"""What the engine asks of a model: reading prompts into slots, and steps of one token for all slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """Continues texts in numbered slots."""

    is_static: bool
    """Whether a step does the same work for the same sizes, whatever the tokens, without the host."""

    def read(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Reads prompts into slots -> logits ``[n, V]`` after the last token of each."""

    def step(self, tokens: Tensor, positions: Tensor, longest: int | None) -> Tensor:
        """One new token for each of the first b slots -> logits ``[b, V]`` that follow.

        Args:
            tokens, positions: ``[b]``.
            longest: the largest position plus one, over all rows that count; None: not known to the host.
        """

    def move(self, source: int, target: int) -> None:
        """Puts one slot's text into another, which nobody uses."""


class LogitsAt(Protocol):
    """See :meth:`recipes.inference.text_generator.TextGenerator.logits_at`."""

    def __call__(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor: ...


class WholeTextDecoder:
    """Reads the whole text again for every token, by a model's own forward pass.

    For models that the lean forward pass does not compute.
    """

    def __init__(self, logits_at: LogitsAt, slots: int, max_length: int, device: torch.device) -> None:
        self.is_static = False
        self.logits_at = logits_at
        self.texts = torch.zeros(slots, max_length, dtype=torch.long, device=device)

    def read(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """See :class:`Decoder`."""
        device, lengths = self.texts.device, [len(prompt) for prompt in prompts]
        for slot, prompt in zip(slots, prompts, strict=True):
            self.texts[slot, : len(prompt)] = torch.tensor(prompt, device=device)
        rows = torch.arange(len(slots), device=device)
        ends = torch.tensor(lengths, device=device) - 1
        return self.logits_at(self.texts[list(slots), : max(lengths)], rows, ends)

    def step(self, tokens: Tensor, positions: Tensor, longest: int | None) -> Tensor:
        """See :class:`Decoder`."""
        rows = torch.arange(len(tokens), device=tokens.device)
        self.texts[rows, positions] = tokens
        # A row that has ended may stand further than those that count: what it gets is not looked at.
        places = positions if longest is None else positions.clamp(max=longest - 1)
        return self.logits_at(self.texts[: len(tokens), :longest], rows, places)

    def move(self, source: int, target: int) -> None:
        """See :class:`Decoder`."""
        self.texts[target] = self.texts[source]
