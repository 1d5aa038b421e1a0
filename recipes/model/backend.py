"""The modules that layers are made of: Transformer Engine's if installed, else PyTorch's fused kernels.

Only this file makes the choice. Transformer Engine cannot be installed without CUDA, so its branch has not
run here; see docs/untested.md.
"""

from __future__ import annotations

import importlib.util

import torch
from megatron.core.models.backends import BackendSpecProvider, LocalSpecProvider

from recipes.families.model_config import ModelConfig
from recipes.model.attention import SDPACoreAttention
from recipes.model.linear import ColumnParallelLinear, RowParallelLinear
from recipes.model.norm import TorchNorm
from recipes.model.windows import takes_flash_attention_3


class TorchSpecProvider(LocalSpecProvider):
    """megatron-core's parallel linear layers in our classes, with PyTorch's norms and attention."""

    def column_parallel_linear(self) -> type:
        return ColumnParallelLinear

    def row_parallel_linear(self) -> type:
        return RowParallelLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        return TorchNorm

    def core_attention(self) -> type:
        return SDPACoreAttention


def have_transformer_engine() -> bool:
    """Whether Transformer Engine can be imported; a broken installation is an error, not a fallback."""
    return importlib.util.find_spec("transformer_engine") is not None


def describe_kernels(model: ModelConfig, dtype: torch.dtype, device: torch.device) -> str:
    """What computes attention and the layers, in words."""
    if have_transformer_engine():
        return "Transformer Engine"
    kernels = "PyTorch's kernels, attention by SDPA"
    if model.window_size is None or device.type == "cpu":
        return kernels
    windowed = "FlashAttention-3" if takes_flash_attention_3(dtype, device) else "FlexAttention"
    return f"{kernels}, in windows by {windowed}"


def spec_provider() -> BackendSpecProvider:
    """The modules to build layer specs from."""
    if have_transformer_engine():
        from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

        return TESpecProvider()
    return TorchSpecProvider()
