"""A layer's norms, with few operations where one new token is normed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import layer_norm, rms_norm


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm over the last axis."""

    width: int
    eps: float
    gain: Tensor | None = None
    bias: Tensor | None = None
    is_layer_norm: bool = False
    wide: bool = False
    """Computed in fp32: a gain stored as an offset from 1 needs its digits."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """``[..., width]`` -> ``[..., width]``."""
        source = hidden.float() if self.wide else hidden
        if self.is_layer_norm:
            normed = layer_norm(source, (self.width,), self.gain, self.bias, self.eps)
        elif source.device.type == "cpu" and source.dtype == torch.float32:
            normed = _rms_norm_on_cpu(source, self.gain, self.eps)
        else:
            normed = rms_norm(source, (self.width,), self.gain, self.eps)
        return normed.to(hidden.dtype) if self.wide else normed


def _rms_norm_on_cpu(hidden: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    """torch's own is eight operations there, whose start takes longer than what they do to one token."""
    length = vector_norm(hidden, dim=-1, keepdim=True)
    normed = hidden * torch.addcmul(_tensor_of(eps), length, length, value=1 / hidden.shape[-1]).rsqrt_()
    return normed if gain is None else normed.mul_(gain)


@cache
def _tensor_of(number: float) -> Tensor:
    return torch.tensor(number)
