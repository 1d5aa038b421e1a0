"""A causal language model with its tokenizer, as completion, sampling and the benchmarks see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.data.tokenizer import TextTokenizer
from recipes.inference.decode.decoder import Decoder, WholeTextDecoder


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

    reads_contexts_once = True
    """Whether :meth:`logits_after` saves work; without a cache, continuations need their context again."""

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

    def forget(self) -> None:
        """Drops what is kept of one call for the next. By default there is nothing."""
        return

    def decoder(self, slots: int, max_length: int) -> Decoder:
        """What continues texts of up to ``max_length`` tokens in ``slots`` rows, for the engine."""
        return WholeTextDecoder(self.logits_at, slots, max_length, self.device)

    def encode(self, text: str) -> list[int]:
        """Token ids without BOS and EOS."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids; special tokens leave no text."""
        return self.tokenizer.decode(list(ids))
