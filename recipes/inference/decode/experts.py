"""Mixtures of experts without megatron-core's dispatcher: tokens are few."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from recipes.inference.decode.weights import Experts


def mixture(experts: Experts, hidden: Tensor) -> Tensor:
    """The experts' shares of ``[n, h]``, and the shared expert's output.

    Ranks that hold some of the experts each compute what their own make of all tokens, and add it up.
    """
    shares, chosen = experts.route(hidden)
    out = torch.zeros_like(hidden, dtype=torch.float32)
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts.router)).tolist()
    tokens = order // experts.top_k
    parts = list(zip(tokens.split(counts), shares.flatten()[order].split(counts), strict=True))
    for expert, (rows, part) in zip(experts.routed, parts[experts.first :], strict=False):
        if len(rows):
            out.index_add_(0, rows, part[:, None] * expert(hidden[rows]).float())
    return with_shared(experts, hidden, experts.share.summed_over_experts(out))


def with_shared(experts: Experts, hidden: Tensor, routed: Tensor) -> Tensor:
    """Adds what the shared expert makes of ``hidden`` to the routed experts' sum ``[n, h]``."""
    routed = routed.to(hidden.dtype)
    if experts.shared is None:
        return routed
    shared = experts.shared(hidden)
    if experts.shared_gate is not None:
        shared = shared * torch.sigmoid(linear(hidden, experts.shared_gate))
    return routed + shared
