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


def describe_kernels(
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    fp8_recipe: str | None = None,
    compiled: bool = False,
    graphs: bool = False,
    separate_documents: bool = False,
) -> str:
    """What computes attention, norms, products and cross entropy, and how a step's kernels are launched.

    Args:
        fp8_recipe: products are in FP8, scaled so; None: they are in ``dtype``.
        compiled: whether torch.compile makes the layers' kernels.
        graphs: whether steps are replayed as CUDA graphs.
        separate_documents: whether no token sees another document than its own.
    """
    on_gpu = device.type == "cuda"
    if have_transformer_engine():
        layers = "attention, norms and products by Transformer Engine"
    else:
        layers = "attention by SDPA"
        if separate_documents:
            layers = f"attention by {'FlexAttention' if on_gpu else 'SDPA'}, each document's own"
        elif model.window_size is not None and on_gpu:
            third = takes_flash_attention_3(dtype, device)
            layers += f" (windows: {'FlashAttention-3' if third else 'FlexAttention'})"
        layers += ", norms and products by PyTorch"
    if fp8_recipe is not None:
        layers += f" (products in FP8, {fp8_recipe})"
    if not on_gpu:
        return f"{layers}, cross entropy in blocks of rows"
    launched = "as CUDA graphs" if graphs else "kernel by kernel"
    return (
        f"{layers}, cross entropy compiled, layers {'compiled' if compiled else 'not compiled'}, "
        f"steps launched {launched}"
    )


def spec_provider() -> BackendSpecProvider:
    """The modules to build layer specs from."""
    if have_transformer_engine():
        from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

        return TESpecProvider()
    return TorchSpecProvider()
