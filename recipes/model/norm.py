"""RMSNorm and LayerNorm on PyTorch's fused kernels, usable with sequence parallelism.

megatron-core's own wrapper around the torch norms refuses sequence parallelism, which only needs the weights
to be marked, so that megatron-core sums their gradients over the tensor-parallel ranks. With
``layernorm_zero_centered_gamma`` the weight is the gain's offset from 1, as in Transformer Engine's norms.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square norm with gain (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.zero_centred = config.layernorm_zero_centered_gamma
        self.weight = nn.Parameter(_gain_of_one(config, hidden_size))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., h]`` -> ``[..., h]``."""
        if not self.zero_centred:
            return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.eps)
        # Near 1 bfloat16 has steps of 1/128: only fp32 can represent 1 plus a small offset.
        normed = nn.functional.rms_norm(
            hidden_states.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps
        )
        return normed.to(hidden_states.dtype)


class LayerNorm(nn.Module):
    """Layer norm with gain and bias (Ba et al. 2016, arXiv 1607.06450)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.zero_centred = config.layernorm_zero_centered_gamma
        self.weight = nn.Parameter(_gain_of_one(config, hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype))
        for parameter in (self.weight, self.bias):
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., h]`` -> ``[..., h]``."""
        if not self.zero_centred:
            return nn.functional.layer_norm(
                hidden_states, self.weight.shape, self.weight, self.bias, self.eps
            )
        gain, bias = 1.0 + self.weight.float(), self.bias.float()
        normed = nn.functional.layer_norm(hidden_states.float(), gain.shape, gain, bias, self.eps)
        return normed.to(hidden_states.dtype)


def _gain_of_one(config: TransformerConfig, hidden_size: int) -> Tensor:
    """The weight of a norm with a gain of 1."""
    stored = 0.0 if config.layernorm_zero_centered_gamma else 1.0
    return torch.full((hidden_size,), stored, dtype=config.params_dtype)


class TorchNorm:
    """The norm that layer specs name: builds the one that the configuration asks for."""

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> Any:
        norm = RMSNorm if config.normalization == "RMSNorm" else LayerNorm
        return norm(config, hidden_size, eps)
