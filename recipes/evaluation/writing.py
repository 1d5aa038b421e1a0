"""Texts that a model writes after prompts, as units of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Request
from recipes.inference.text_generator import TextGenerator

Prompt = tuple[int, list[int]]
"""(the request, its prompt's ids)"""
ROUNDS = 4
"""Prompts of a unit for each row of the engine: a row that is done takes the next, and few stand idle."""


class Writer:
    """Continues prompts of equal settings on one engine, which is made when it is first needed.

    Args:
        slots: prompts that are continued together.
        max_length: tokens of a prompt and what is written after it.
        request: asks for the continuation of a prompt.
        text: of the ids that were written.
    """

    def __init__(
        self,
        model: TextGenerator,
        *,
        slots: int,
        max_length: int,
        request: Callable[[list[int]], Request],
        text: Callable[[list[int]], str],
    ) -> None:
        self.model, self.slots, self.max_length = model, slots, max_length
        self.request, self.text = request, text
        self._engine: Engine | None = None

    def units(self, prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
        """The prompts in the pieces that are given to :meth:`write`."""
        step = self.slots * ROUNDS
        return [prompts[start : start + step] for start in range(0, len(prompts), step)]

    def write(self, prompts: Sequence[Prompt]) -> dict[int, str]:
        """The continuations, by their requests."""
        try:
            self._engine = self._engine or Engine(self.model, slots=self.slots, max_length=self.max_length)
            asked = [self.request(ids) for _, ids in prompts]
            written = list(in_order(self._engine, asked))
        except RuntimeError:  # Out of memory, as a rule: the next attempt has fewer rows.
            self._engine, self.slots = None, max(1, self.slots // 2)
            raise
        return {i: self.text(list(event.token_ids)) for (i, _), event in zip(prompts, written, strict=True)}
