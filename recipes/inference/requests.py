"""What is asked of the decoding engine, and what it answers. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"
PENALTY_STYLES = ("nemo", "ctrl")
MOST_END_IDS = 8


@dataclass(frozen=True)
class Sampling:
    """How one request's tokens are chosen.

    The order is NeMo's: bias, temperature, repetition penalty, top-k, top-p; then min-p.
    """

    greedy: bool = False
    """Always the likeliest token; temperature, top_k, top_p and min_p are then ignored."""
    temperature: float = 1.0
    top_k: int = 0
    """0: no limit. Ties with the k-th are kept."""
    top_p: float = 0.0
    """The likeliest tokens up to the one at which their sum exceeds it; 0 and 1: no limit."""
    min_p: float = 0.0
    """Only tokens with at least this share of the likeliest one's probability; 0: no limit."""
    repetition_penalty: float = 1.0
    """For tokens of the prompt and those generated before; 1: none."""
    repetition_penalty_style: str = "nemo"
    """nemo divides every score, which makes negative ones likelier, and leaves greedy choices alone. ctrl
    multiplies negative ones (Keskar et al. 2019, section 4.1), in greedy choices too."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids, in greedy choices too."""
    seed: int = 0
    """Of this request alone: the same tokens whatever else is in the batch. Below 2^63."""


@dataclass(frozen=True)
class Request:
    """One prompt to continue."""

    prompt: tuple[int, ...]
    """With BOS, if there is one; not empty."""
    max_new_tokens: int
    """0: nothing is generated; prompt_logprobs are all there is."""
    min_new_tokens: int = 0
    """Before so many new tokens, end_ids are never chosen."""
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    """The first of them ends the continuation, and is part of it. At most MOST_END_IDS."""
    stop: Callable[[list[int]], bool] | None = None
    """Whether the continuation ends after the ids generated so far. Asked after every new id, perhaps a few
    tokens late; what was generated after it is dropped."""
    logprobs: bool = False
    """Also give the log-probability of each new token, by the plain model: before bias and temperature."""
    top_logprobs: int = 0
    """Also give so many likeliest tokens at each place."""
    full_logprob: bool = False
    """Also give the log-probabilities of the whole vocabulary at each place."""
    prompt_logprobs: bool = False
    """Also give the log-probability of each token of the prompt after the first, and with top_logprobs the
    likeliest tokens there."""


@dataclass(frozen=True)
class Event:
    """What is new of one request. ``logprobs``, ``top`` and ``full`` have an entry for each new token."""

    request: int
    """Its number."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """(id, log-probability) of the likeliest tokens, the likeliest first."""
    full: tuple[Any, ...] | None = None
    """Tensors ``[vocabulary]`` on the CPU."""
    prompt_logprobs: tuple[float, ...] | None = None
    """With the request's first event."""
    prompt_top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """As ``top``, at the same places."""
    finished: str | None = None
    """Why nothing comes after this: STOP (end id or stop rule), LENGTH or CANCELLED; None: it goes on."""

    def followed_by(self, later: Event) -> Event:
        """What both say together, of one request."""
        return Event(
            self.request,
            self.token_ids + later.token_ids,
            _together(self.logprobs, later.logprobs),
            _together(self.top, later.top),
            _together(self.full, later.full),
            self.prompt_logprobs if later.prompt_logprobs is None else later.prompt_logprobs,
            self.prompt_top if later.prompt_top is None else later.prompt_top,
            later.finished,
        )


def _together(first: tuple[Any, ...] | None, second: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if first is None or second is None:
        return first if second is None else second
    return first + second
