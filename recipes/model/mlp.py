"""megatron-core's MLP, fit for recomputation where it has biases."""

from __future__ import annotations

from typing import Any

from megatron.core.transformer.mlp import MLP as MegatronMLP
from torch import Tensor


class MLP(MegatronMLP):
    """Hands out a view of its last bias, which the layer adds later, never the parameter itself.

    In recomputation what a function returns becomes autograd's output of the recomputing node. megatron-core
    0.16.1 returns the parameter, which so becomes its own descendant: the backward pass recomputes without
    end. tests/model/test_recomputation.py covers it.
    """

    def forward(self, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        """``[s, b, h]`` -> output ``[s, b, h]`` without its bias, and the bias ``[h]`` if there is one."""
        output, bias = super().forward(*inputs, **options)
        return output, bias if bias is None else bias.view_as(bias)
