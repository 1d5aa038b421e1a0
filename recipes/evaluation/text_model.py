"""What a language model must offer to be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

StopRule = Callable[[int, list[int]], bool]
"""`stop(row, generated)`: whether the row's generation ends after the ids generated so far."""


class TextModel(Protocol):
    """A causal language model together with its tokenizer.

    Everything the benchmarks need and nothing about how the model runs: `recipes.evaluation.lm.ParamLM` puts
    it into lm-eval. Under tensor or pipeline parallelism every rank holds one and makes the same calls in the
    same order.
    """

    name: str
    """What results are filed under."""
    vocab_size: int
    """The real vocabulary, without padding rows."""
    max_sequence_length: int
    device: torch.device
    bos_id: int | None
    eos_id: int
    document_start_id: int | None
    """The token that stood before every document in training, put before every context. None: nothing is."""
    eos_text: str | None
    """How the end token is spelled ("</s>", "<|endoftext|>"); text is cut where a model spells it out. None:
    it has no spelling."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS and EOS."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens leave no text."""

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits `[b, s, vocab_size]` of `tokens` `[b, s]`, causal, so right padding changes
        nothing."""

    def greedy(self, prompts: list[list[int]], max_new_tokens: int, stop: StopRule) -> list[list[int]]:
        """The greedy continuation of each prompt, at most `max_new_tokens` ids, prompt excluded.

        `stop(row, ids)` is asked after every new id of a row; True ends that row. What a row holds beyond its
        first EOS is ignored.
        """
