"""Rotary position embeddings from tables, one row per position."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.inference.decode.weights import Weights


class RotaryTables:
    """Cosines and signed sines in fp32, ``[positions, r]`` for each of the model's bases."""

    def __init__(self, weights: Weights, positions: int) -> None:
        width, device = weights.rotary_width, weights.device
        self.cosines, self.sines = [], []
        for base in weights.rotary_bases:
            # On the CPU, and in megatron-core's order of operations: the angles of late positions are large.
            exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
            angles = torch.outer(torch.arange(positions, dtype=torch.float32), 1.0 / base**exponents)
            self.cosines.append(torch.cat((angles.cos(), angles.cos()), dim=-1).to(device))
            # Each channel's partner is half the width away; the first half gets it with a minus.
            self.sines.append(torch.cat((-angles.sin(), angles.sin()), dim=-1).to(device))

    def at(self, positions: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """For each base cosines and sines ``[n, 1, 1, r]`` at positions ``[n]``."""
        return [
            (cosines[positions, None, None].to(dtype), sines[positions, None, None].to(dtype))
            for cosines, sines in zip(self.cosines, self.sines, strict=True)
        ]


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates the first r channels of ``[n, groups, heads, d]``."""
    width = cosines.shape[-1]
    if width < heads.shape[-1]:
        turned = rotate(heads[..., :width], cosines, sines)
        return torch.cat((turned, heads[..., width:]), dim=-1)
    return torch.addcmul(heads * cosines, heads.roll(width // 2, dims=-1), sines)
