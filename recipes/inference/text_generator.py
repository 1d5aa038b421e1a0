"""A causal language model with its tokenizer, as completion, sampling and the benchmarks see it."""

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
"""``stop(row, generated)``: whether the row ends after the ids generated so far; asked after every new id."""


class TextGenerator(ABC):
    """A causal language model together with its tokenizer.

    Subclasses compute logits; everything that reads or writes text is built on those. Under tensor or
    pipeline parallelism every rank holds one and makes the same calls in the same order.

    Args:
        tokenizer: of the model.
        device: where the model's inputs go.
        name: what results are filed under.
        max_sequence_length: the longest sequence the model reads, in tokens.
        document_start_id: the token before every document in training, put before every prompt. None: there
            was none.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        device: torch.device,
        *,
        name: str,
        max_sequence_length: int,
        document_start_id: int | None,
    ) -> None:
        self.tokenizer, self.device, self.name = tokenizer, device, name
        self.max_sequence_length = max_sequence_length
        self.document_start_id = document_start_id
        self.vocab_size = tokenizer.vocab_size
        """The real vocabulary, without padding rows."""
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.eos_text = tokenizer.id_to_piece(tokenizer.eos_id)
        """How the end token is spelled ("</s>"): a model may write it out as ordinary text."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits ``[b, s, vocab_size]`` of ``tokens`` ``[b, s]``.

        The model is causal, so padding on the right changes nothing. Keeps no gradients.
        """

    def logits_at(self, tokens: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Next-token logits ``[n, vocab_size]`` after ``tokens[rows, places]`` alone.

        With a large vocabulary the output head costs as much as many layers, and its logits are by far the
        largest tensor: only what is asked for should be computed.

        Args:
            tokens: ``[b, s]``.
            rows: ``[n]``.
            places: ``[n]``.
        """
        return self.logits(tokens)[rows, places]

    def logits_after(
        self, contexts: Tensor, owners: Tensor, continuations: Tensor, rows: Tensor, places: Tensor
    ) -> Tensor:
        """Logits after contexts, and after tokens that go on from them; models with a cache read each once.

        Args:
            contexts: ``[b, p]``.
            owners: ``[r]``: the context that each continuation follows.
            continuations: ``[r, c]``; padding on the right changes nothing.
            rows: ``[n]``, of continuations.
            places: ``[n]``, within them.

        Returns:
            ``[b + n, vocab_size]``: after each whole context, then after ``continuations[rows, places]``.
        """
        everything = torch.arange(len(contexts), device=contexts.device)
        ends = torch.full_like(everything, contexts.shape[1] - 1)
        after = torch.cat([contexts[owners], continuations], dim=1)
        return torch.cat(
            [
                self.logits_at(contexts, everything, ends),
                self.logits_at(after, rows, contexts.shape[1] + places),
            ]
        )

    @abstractmethod
    def _next_token_logits(self, rows: Tensor) -> Callable[[int], Tensor]:
        """A function from a position in ``rows`` ``[b, s]`` to the logits ``[b, V]`` of the token there.

        It is called with rising positions while generation fills in ``rows``. ``V`` is at least vocab_size;
        the caller may write to the logits.
        """

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS and EOS."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens leave no text."""
        return self.tokenizer.decode(list(ids))

    def greedy(self, prompts: list[list[int]], max_new_tokens: int, stop: StopRule) -> list[list[int]]:
        """The likeliest continuation of each prompt, at most ``max_new_tokens`` ids, without the prompt.

        Raises:
            UserError: as :meth:`generate`.
        """
        limits = [len(prompt) + max_new_tokens for prompt in prompts]
        return self.generate(prompts, limits, lambda logits, _: logits.argmax(-1), stop)

    # Not inference_mode: a later training step may use what modules cache here (rotary tables).
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

        As NeMo does: all rows advance together from the end of the shortest prompt; a row with a longer
        prompt is fed its own prompt until that ends.

        Raises:
            UserError: a prompt is empty, or longer than the model's sequences.
        """
        longest = max(len(prompt) for prompt in prompts)
        if not all(prompts):
            raise UserError("a prompt is empty; give it text")
        if longest >= self.max_sequence_length:
            raise UserError(
                f"a prompt has {longest:,} tokens; the model reads {self.max_sequence_length:,}; shorten it"
            )
        end = min(max(limits), self.max_sequence_length)
        rows = torch.full((len(prompts), end), self.eos_id, dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            rows[row, : len(prompt)] = torch.tensor(prompt, device=self.device)
        next_logits = self._next_token_logits(rows)
        generated: list[list[int]] = [[] for _ in prompts]
        live = set(range(len(prompts)))
        for position in range(min(len(prompt) for prompt in prompts), end):
            logits = next_logits(position)[:, : self.vocab_size]
            past_prompt = [row for row in live if len(prompts[row]) <= position]
            for row in past_prompt:
                if len(generated[row]) < min_new_tokens:
                    logits[row, self.eos_id] = float("-inf")
            ids = choose(logits, rows[:, :position])
            for row in past_prompt:
                rows[row, position] = ids[row]
                generated[row].append(int(ids[row]))
                if stop(row, generated[row]) or position + 1 >= limits[row]:
                    live.discard(row)
            if not live:
                break
        return generated
