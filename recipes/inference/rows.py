"""What the engine keeps on the device about every row of its batch: one tensor per property."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.inference.decode.has_triton import has_triton
from recipes.inference.requests import MOST_END_IDS, Request

Select = slice | Tensor
"""Rows by a range, or by an index tensor."""


@dataclass(frozen=True)
class Needs:
    """What the requests in a batch ask of a step: what nobody asks for is not computed."""

    draws: bool = False
    biases: bool = False
    forbids: bool = False
    penalties: bool = False
    top_k: int = 0
    """At least the largest; 0: none."""
    every_top_p_has_top_k: bool = True
    top_p: bool = False
    min_p: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    full: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.draws or other.draws,
            self.biases or other.biases,
            self.forbids or other.forbids,
            self.penalties or other.penalties,
            max(self.top_k, other.top_k),
            self.every_top_p_has_top_k and other.every_top_p_has_top_k,
            self.top_p or other.top_p,
            self.min_p or other.min_p,
            self.logprobs or other.logprobs,
            max(self.top_logprobs, other.top_logprobs),
            self.full or other.full,
        )


def needs_of(request: Request, vocab_size: int) -> Needs:
    """Those of one request."""
    sampling = request.sampling
    draws = not sampling.greedy
    top_k = sampling.top_k if draws and 0 < sampling.top_k < vocab_size else 0
    # To a power of two: a CUDA graph is captured for every combination of needs.
    top_k = min(1 << (top_k - 1).bit_length(), vocab_size) if top_k else 0
    top_p = draws and 0.0 < sampling.top_p < 1.0
    return Needs(
        draws=draws,
        biases=bool(sampling.logit_bias),
        forbids=request.min_new_tokens > 0 and bool(request.end_ids),
        penalties=_penalty(request) != 1.0,
        top_k=top_k,
        every_top_p_has_top_k=not top_p or top_k > 0,
        top_p=top_p,
        min_p=draws and sampling.min_p > 0.0,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        full=request.full_logprob,
    )


class Rows:
    """The state of ``slots`` rows: where each one is, and how its tokens are chosen. All tensors ``[slots]``.

    A row that is not active stays where it is, whatever steps are made.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.slots, self.vocab_size, self.device = slots, vocab_size, device
        # One tensor of each kind, so that a new request's numbers reach the device in two copies.
        self._whole = torch.zeros(slots, 10 + MOST_END_IDS, dtype=torch.long, device=device)
        columns = self._whole.unbind(1)
        self.last, self.position, self.count, self.active = columns[:4]
        """The last token, its position, the number of new tokens, whether the row goes on (1)."""
        self.max_new, self.min_new, self.seed, self.top_k, self.greedy, self.ctrl = columns[4:10]
        self.end_ids = self._whole[:, 10:]
        """``[slots, MOST_END_IDS]``, filled up with its first; -1 if there are none."""
        self._numbers = torch.ones(slots, 4, device=device)
        self.temperature, self.top_p, self.log_min_p, self.penalty = self._numbers.unbind(1)
        self._slots = torch.arange(slots, device=device)
        self.seen: Tensor | None = None
        """``[slots, vocab_size]``: whether the token came before; from the first penalty on."""
        self.bias: Tensor | None = None
        """``[slots, vocab_size]``, from the first bias on."""
        self._has_kernel = has_triton(device)

    def set(self, slot: int, request: Request) -> None:
        """Puts a request into a row; its next token comes after the prompt's last."""
        sampling = request.sampling
        ends = sorted(request.end_ids) or [-1]
        whole = [request.prompt[-1], len(request.prompt) - 1, 0, 1]
        whole += [request.max_new_tokens, request.min_new_tokens, sampling.seed]
        top_k = min(sampling.top_k, self.vocab_size) or self.vocab_size
        whole += [top_k, int(sampling.greedy), int(sampling.repetition_penalty_style == "ctrl")]
        whole += ends + ends[:1] * (MOST_END_IDS - len(ends))
        self._whole[slot] = torch.tensor(whole, device=self.device)
        numbers = [
            1.0 if sampling.greedy else sampling.temperature,
            sampling.top_p if 0.0 < sampling.top_p < 1.0 else 2.0,
            math.log(sampling.min_p) if sampling.min_p > 0.0 else -math.inf,
            _penalty(request),
        ]
        self._numbers[slot] = torch.tensor(numbers, device=self.device)
        if _penalty(request) != 1.0:
            self._set_seen(slot, request.prompt)
        if sampling.logit_bias or self.bias is not None:
            self._set_bias(slot, request)

    def _set_seen(self, slot: int, prompt: tuple[int, ...]) -> None:
        if self.seen is None:
            self.seen = torch.zeros(self.slots, self.vocab_size, dtype=torch.bool, device=self.device)
        self.seen[slot] = False
        known = [token for token in set(prompt) if token < self.vocab_size]
        self.seen[slot, torch.tensor(known, dtype=torch.long, device=self.device)] = True

    def _set_bias(self, slot: int, request: Request) -> None:
        if self.bias is None:
            self.bias = torch.zeros(self.slots, self.vocab_size, device=self.device)
        self.bias[slot] = 0.0
        ids, values = list(request.sampling.logit_bias), list(request.sampling.logit_bias.values())
        self.bias[slot, torch.tensor(ids, dtype=torch.long, device=self.device)] = torch.tensor(
            values, dtype=torch.float32, device=self.device
        )

    def stop(self, slot: int) -> None:
        """The row stays where it is from now on."""
        self.active[slot] = 0

    def move(self, source: int, target: int) -> None:
        """Puts one row's state into another, which nobody uses."""
        for tensor in (self._whole, self._numbers, self.seen, self.bias):
            if tensor is not None:
                tensor[target] = tensor[source]
        self.stop(source)

    def advance(self, select: Select, ids: Tensor, needs: Needs) -> None:
        """Appends ``ids`` ``[b]`` to the selected rows that are active, and ends those that end."""
        active = self.active[select]
        if needs.penalties and self.seen is not None:
            place = self._slots[select], ids
            self.seen.index_put_(place, self.seen[place] | (active == 1))
        if self._has_kernel and isinstance(select, slice):
            from recipes.inference.advance_kernel import advance_rows

            return advance_rows(self._whole[select], ids, MOST_END_IDS)
        count = self.count[select] + active
        ended = (ids[:, None] == self.end_ids[select]).any(1) | (count >= self.max_new[select])
        self.last[select] = torch.where(active == 1, ids, self.last[select])
        self.position[select] += active
        self.count[select] = count
        self.active[select] = active * (~ended)


def _penalty(request: Request) -> float:
    """NeMo's greedy choice ignores the penalty."""
    sampling = request.sampling
    ignored = sampling.greedy and sampling.repetition_penalty_style == "nemo"
    return 1.0 if ignored else sampling.repetition_penalty
