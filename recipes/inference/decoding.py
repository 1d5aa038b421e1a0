"""Continuing prompts token by token, whatever computes the logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recipes.data.tokenizer import TextTokenizer
from recipes.errors import UserError

Chooser = Callable[[Tensor, Tensor], Tensor]
"""``choose(logits [b, V], context [b, s]) -> ids [b]``."""
StopRule = Callable[[int, list[int]], bool]
"""``stop(row, ids generated so far)``."""


class TextGenerator(ABC):
    """A model that reads and writes text with its tokenizer."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        device: torch.device,
        *,
        max_sequence_length: int,
        document_start_id: int | None,
    ) -> None:
        self.tokenizer, self.device = tokenizer, device
        self.max_sequence_length = max_sequence_length
        self.document_start_id = document_start_id
        """The token that stood before every document in training; None: there was none."""
        self.vocab_size = tokenizer.vocab_size
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id

    @abstractmethod
    def _reader(self, rows: Tensor) -> Callable[[int], Tensor]:
        """A function from a place to the logits ``[b, V]`` for it, asked for rising places of ``rows``.

        ``rows`` ``[b, s]`` are filled in as generation goes on; the logits may be written to.
        """

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS and EOS."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens leave no text."""
        return self.tokenizer.decode(list(ids))

    # Not inference_mode: what modules cache meanwhile (rotary tables) may be used by a training step later.
    @torch.no_grad()
    def generate(
        self,
        prompts: list[list[int]],
        limits: list[int],
        choose: Chooser,
        stop: StopRule,
        *,
        min_new_tokens: int = 0,
    ) -> list[list[int]]:
        """Continues each prompt until ``stop`` or until prompt and continuation have ``limits[row]`` ids.

        As NeMo does: all rows advance together from the shortest prompt's end; a row whose prompt is longer
        is fed its own prompt until it ends.

        Raises:
            UserError: a prompt is empty, or longer than the model's sequences.
        """
        longest = max(len(prompt) for prompt in prompts)
        if not all(prompts):
            raise UserError("a prompt is empty; give it text")
        if longest >= self.max_sequence_length:
            raise UserError(
                f"a prompt has {longest} tokens; the model reads {self.max_sequence_length}; shorten it"
            )
        end = min(max(limits), self.max_sequence_length)
        rows = torch.full((len(prompts), end), self.eos_id, dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            rows[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        next_logits = self._reader(rows)
        generated: list[list[int]] = [[] for _ in prompts]
        live = set(range(len(prompts)))
        for place in range(min(len(prompt) for prompt in prompts), end):
            logits = next_logits(place)[:, : self.vocab_size]
            starting = [row for row in live if len(prompts[row]) <= place]
            for row in starting:
                if len(generated[row]) < min_new_tokens:
                    logits[row, self.eos_id] = float("-inf")
            ids = choose(logits, rows[:, :place])
            for row in starting:
                rows[row, place] = ids[row]
                generated[row].append(int(ids[row]))
                if stop(row, generated[row]) or place + 1 >= limits[row]:
                    live.discard(row)
            if not live:
                break
        return generated
