"""Random numbers that depend on (seed, position, token) alone, never on what else is computed beside them."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


# SplitMix64 (Steele, Lea & Flood 2014): a step of the golden ratio, then two rounds of shift and multiply.
GOLDEN, FIRST, SECOND = (
    _signed(constant) for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def gumbel_noise(seeds: Tensor, positions: Tensor, tokens: int) -> Tensor:
    """Independent standard Gumbel numbers ``[b, tokens]`` in fp32.

    The argmax of scores plus these is a draw from their softmax.

    Args:
        seeds, positions: ``[b]``, int64.
    """
    rows = _mixed(_mixed(seeds) + GOLDEN * positions)
    columns = torch.arange(1, tokens + 1, device=seeds.device) * GOLDEN
    bits = _shifted(_mixed(rows[:, None] + columns), 32)
    # The argmax of score - log(E) with E exponential. E = -log(1 - u): small ones decide, and keep all their
    # digits in this form.
    uniform = (bits.float() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-uniform))


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right, filled up with zeros: torch's own shift repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
