"""megatron-core's parallel linear layers, whose product itself adds a weight's gradient to the main gradient.

See recipes/model/main_grad.py. On CPUs products are oneDNN's (recipes/model/products.py), also where a layer
cannot do that.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear as MegatronColumnParallelLinear
from megatron.core.tensor_parallel import RowParallelLinear as MegatronRowParallelLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recipes.model.main_grad import AddsToMainGrad, unused_gradient
from recipes.model.products import add_weight_gradient, input_gradient, product, weight_gradient


class _Linear(AddsToMainGrad):
    """What both kinds of layers have in common."""

    def can_add_to_main_grad(self, weight: Tensor) -> bool:
        """Where a rank has whole matrices.

        With tensor parallelism the gradient of a layer's input is reduced while that of its weight is
        computed, which megatron-core's own function arranges; so does it when it computes that of the output
        layer after all others.
        """
        return self.tp_group.size() == 1 and not self.config.defer_embedding_wgrad_compute

    def _forward_impl(self, input: Tensor, weight: Any, **options: Any) -> Tensor:
        # megatron-core's row-parallel layer passes no group here and warns of it in every forward pass, which
        # also breaks compiled layers apart.
        options["tp_group"] = options.get("tp_group") or self.tp_group
        bias: Tensor | None = options["bias"]
        if not (torch.is_grad_enabled() or options["sequence_parallel"]):
            # Completion of a small model is bound by Python, a third of it the autograd function's. In
            # training this is computed again, with gradients, and has to come out the same.
            multiply = product if not self.training or self._is_ours(weight) else nn.functional.linear
            return multiply(input, weight, bias)
        if self._is_ours(weight):
            main_grad = weight.main_grad if self.adds_to_main_grad else None
            output: Tensor = _Product.apply(input, weight, main_grad)
            return output if bias is None else output + bias
        output = super()._forward_impl(input=input, weight=weight, **options)  # type: ignore[misc]
        return output

    def _is_ours(self, weight: Tensor) -> bool:
        """Whether this layer multiplies by itself where gradients are wanted."""
        return self.adds_to_main_grad or (weight.device.type == "cpu" and self.can_add_to_main_grad(weight))


class ColumnParallelLinear(_Linear, MegatronColumnParallelLinear):
    """megatron-core's layer whose output is split."""


class RowParallelLinear(_Linear, MegatronRowParallelLinear):
    """megatron-core's layer whose input is split."""


class _Product(torch.autograd.Function):
    """``x W^T``, ``[..., in]`` -> ``[..., out]``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, main_grad: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        # Not with save_for_backward: other micro-batches may change it before this one's backward pass.
        ctx.main_grad = main_grad
        return product(inputs, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, weight = ctx.saved_tensors
        of_inputs = input_gradient(gradient, weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_inputs, None, None
        flat = gradient.reshape(-1, gradient.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
        if ctx.main_grad is None:
            return of_inputs, weight_gradient(*flat), None
        if torch.compiler.is_compiling():
            torch.ops.param_recipes.add_weight_gradient(ctx.main_grad, *flat)
        else:
            add_weight_gradient(ctx.main_grad, *flat)
        return of_inputs, unused_gradient(weight), None
