"""Texts that a model writes after prompts, as units of work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lm_eval.models.utils import postprocess_generated_text

from recipes.inference.engine import Engine, in_order
from recipes.inference.requests import Request, Sampling
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
        max_new: the most that is written.
        until: a text ends where one of these begins.
        end_id: the token with which it ends, too.
    """

    def __init__(
        self,
        model: TextGenerator,
        *,
        slots: int,
        max_length: int,
        max_new: int,
        until: list[str],
        end_id: int,
    ) -> None:
        self.model, self.slots, self.max_length = model, slots, max_length
        self.max_new, self.until, self.end_id = max_new, until, end_id
        self._engine: Engine | None = None

    def units(self, prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
        """The prompts in the pieces that are given to :meth:`write`."""
        step = self.slots * ROUNDS
        return [prompts[start : start + step] for start in range(0, len(prompts), step)]

    def write(self, prompts: Sequence[Prompt]) -> dict[int, str]:
        """The continuations, by their requests."""
        try:
            self._engine = self._engine or Engine(self.model, slots=self.slots, max_length=self.max_length)
            asked = [self._request(ids) for _, ids in prompts]
            written = list(in_order(self._engine, asked))
        except RuntimeError:  # Out of memory, as a rule: the next attempt has fewer rows.
            self._engine, self.slots = None, max(1, self.slots // 2)
            raise
        return {i: self._text(list(event.token_ids)) for (i, _), event in zip(prompts, written, strict=True)}

    def _request(self, prompt: list[int]) -> Request:
        return Request(
            tuple(prompt),
            self.max_new,
            sampling=Sampling(greedy=True),
            end_ids=frozenset({self.end_id}),
            stop=self._stops,
        )

    def _stops(self, generated: list[int]) -> bool:
        # A token of text is at least one byte, so this many last tokens hold any stop string they complete.
        # A token without text could push one out of the window: that row runs longer, and its text is still
        # cut.
        window = max((len(text.encode()) for text in self.until), default=0) + 4
        tail = self.model.decode(generated[-window:])
        return any(text in tail for text in self.until)

    def _text(self, ids: list[int]) -> str:
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return postprocess_generated_text(self.model.decode(ids), self.until, think_end_token=None)

    def size(self, prompts: Sequence[Prompt]) -> tuple[int, ...]:
        """What memory is needed for: rows of full length."""
        return (min(self.slots, len(prompts)),)

    def longest_pass(self, prompts: Sequence[Prompt]) -> None:
        """The last one, before which all rows have their full length."""
        rows = torch.arange(*self.size(prompts), device=self.model.device)
        tokens = torch.zeros(len(rows), self.max_length, dtype=torch.long, device=self.model.device)
        self.model.logits_at(tokens, rows, torch.full_like(rows, self.max_length - 1))
