"""Choosing the next token, with the meaning and order of operations of NeMo's megatron_gpt inference.

Every row of a batch has its own settings, in tensors, and its own random numbers: a row's choice is the same
alone and in any batch. Nothing here depends on the numbers in a way that the host would have to see, unless
``exact_shapes`` allows it, so a CUDA graph can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.inference.noise import gumbel_noise
from recipes.inference.rows import Needs, Rows, Select

PREFIX = 256
"""How many of the likeliest tokens are sorted first for top-p; seldom are more needed."""


@dataclass(frozen=True)
class Chosen:
    """The chosen tokens, and what was asked for beside them."""

    ids: Tensor
    """``[b]``"""
    logprobs: Tensor | None = None
    """``[b]``"""
    top: tuple[Tensor, Tensor] | None = None
    """Log-probabilities and ids of the likeliest tokens, ``[b, n]`` both."""
    full: Tensor | None = None
    """``[b, V]``"""

    def on_the_host(self) -> Chosen:
        """Copies that arrive there when the device has come to this point."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.to("cpu", non_blocking=True)

        return Chosen(
            copied(self.ids),
            None if self.logprobs is None else copied(self.logprobs),
            None if self.top is None else (copied(self.top[0]), copied(self.top[1])),
            None if self.full is None else copied(self.full),
        )


def choose(logits: Tensor, rows: Rows, select: Select, needs: Needs, *, exact_shapes: bool) -> Chosen:
    """The next token of each selected row.

    Args:
        logits: ``[b, V]``, of the real vocabulary.
        exact_shapes: whether tensors' shapes may depend on numbers, which makes the host wait for them. It
            saves sorting the vocabulary.
    """
    ids = _choose(logits, rows, select, needs, exact_shapes)
    if not (needs.logprobs or needs.top_logprobs or needs.full):
        return Chosen(ids)
    everything = logits.float().log_softmax(-1)
    top = everything.topk(needs.top_logprobs) if needs.top_logprobs else None
    return Chosen(
        ids,
        everything.gather(1, ids[:, None]).squeeze(1) if needs.logprobs else None,
        None if top is None else (top.values, top.indices),
        everything if needs.full else None,
    )


def _choose(logits: Tensor, rows: Rows, select: Select, needs: Needs, exact_shapes: bool) -> Tensor:
    scores = logits
    if needs.biases and rows.bias is not None:
        scores = scores + rows.bias[select]
    if needs.forbids:
        scores = forbid_ends(scores, rows.end_ids[select], rows.count[select] < rows.min_new[select])
    if needs.draws:
        scores = scores / rows.temperature[select, None]
    if needs.penalties and rows.seen is not None:
        penalty, ctrl = rows.penalty[select, None], rows.ctrl[select, None] == 1
        scores = penalize_repetition(scores, penalty, rows.seen[select], ctrl)
    if not needs.draws:
        return likeliest(scores)
    kept = keep_likeliest(
        scores,
        rows.top_k[select, None],
        rows.top_p[select, None],
        rows.log_min_p[select, None],
        needs,
        exact_shapes=exact_shapes,
    )
    drawn = likeliest(kept + gumbel_noise(rows.seed[select], rows.position[select], kept.shape[1]))
    return torch.where(rows.greedy[select] == 1, likeliest(scores), drawn)


def likeliest(scores: Tensor) -> Tensor:
    """The place ``[b]`` of the highest of ``[b, V]``, the first if there are several."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        return torch.from_numpy(scores.numpy().argmax(-1))  # Takes a tenth of torch's time.
    return scores.argmax(-1)


def forbid_ends(scores: Tensor, end_ids: Tensor, forbidden: Tensor) -> Tensor:
    """-inf for the ``end_ids`` ``[b, n]`` (-1: none) of rows where they are ``forbidden`` ``[b]``."""
    places = end_ids.clamp(min=0)
    hidden = forbidden[:, None] & (end_ids >= 0)
    values = scores.gather(1, places).masked_fill(hidden, float("-inf"))
    return scores.scatter(1, places, values)


def penalize_repetition(scores: Tensor, penalty: Tensor, seen: Tensor, ctrl: Tensor) -> Tensor:
    """Makes tokens that were ``seen`` ``[b, V]`` less likely.

    NeMo divides negative scores too, which makes them likelier; CTRL (Keskar et al. 2019, section 4.1) and
    others multiply those.

    Args:
        penalty: ``[b, 1]``.
        ctrl: ``[b, 1]``, whether negative scores are multiplied.
    """
    penalized = torch.where(ctrl & (scores < 0), scores * penalty, scores / penalty)
    return torch.where(seen, penalized, scores)


def keep_likeliest(
    scores: Tensor, top_k: Tensor, top_p: Tensor, log_min_p: Tensor, needs: Needs, *, exact_shapes: bool
) -> Tensor:
    """All scores ``[b, V]`` but the kept ones become -inf.

    The k highest are kept, and ties with the k-th. Of these, the likeliest up to the one at which the sum
    exceeds p (Holtzman et al. 2020), and ties with that one. Then those with at least min-p of the
    likeliest's probability.

    Args:
        top_k, top_p, log_min_p: ``[b, 1]``; the vocabulary, 2 and -inf keep all.
    """
    threshold = scores.new_full((scores.shape[0], 1), float("-inf"))
    if needs.top_k or needs.top_p:
        threshold = _threshold(scores, top_k, top_p, needs, exact_shapes)
    if needs.min_p:
        threshold = torch.maximum(threshold, scores.amax(-1, keepdim=True) + log_min_p)
    return scores.masked_fill(scores < threshold, float("-inf"))


def _threshold(scores: Tensor, top_k: Tensor, top_p: Tensor, needs: Needs, exact_shapes: bool) -> Tensor:
    """The lowest score ``[b, 1]`` that top-k and top-p keep.

    Only as many scores are sorted as decide: the k highest, or the whole vocabulary if a row has top-p alone.
    With exact shapes a few are tried first, which usually hold the share p.
    """
    vocabulary = scores.shape[1]
    sorted_scores = needs.top_k if needs.every_top_p_has_top_k else vocabulary
    if exact_shapes and sorted_scores > PREFIX:
        tried = min(max(PREFIX, needs.top_k), vocabulary)
        found, complete = _threshold_among(scores, tried, top_k, top_p, needs.top_p)
        if tried == vocabulary or bool(complete.all()):
            return found
    return _threshold_among(scores, sorted_scores, top_k, top_p, needs.top_p)[0]


def _threshold_among(
    scores: Tensor, count: int, top_k: Tensor, top_p: Tensor, has_top_p: bool
) -> tuple[Tensor, Tensor]:
    """The threshold as the ``count`` highest scores give it, and whether (``[b, 1]``) no other matters."""
    ordered = scores.topk(count, dim=-1).values
    has_k = top_k < scores.shape[1]
    kth = ordered.gather(1, top_k.clamp(max=count) - 1)
    threshold = kth.masked_fill(~has_k, float("-inf"))
    if not has_top_p:
        return threshold, torch.ones_like(has_k)
    highest = ordered[:, :1]
    total = (scores - highest).exp().masked_fill(scores < threshold, 0.0).sum(-1, keepdim=True)
    shares = (ordered - highest).exp().masked_fill(ordered < threshold, 0.0) / total
    before = shares.cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0.0
    kept = (before <= top_p).sum(-1, keepdim=True)
    lowest = ordered.gather(1, kept - 1)
    limited = top_p < 1.0
    threshold = torch.where(limited, torch.maximum(threshold, lowest), threshold)
    return threshold, (kept < count) | has_k | ~limited
