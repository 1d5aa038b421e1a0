"""megatron-core's parallel linear layers, whose product itself adds a weight's gradient to the main gradient.

megatron-core keeps gradients of all micro-batches in fp32 (``main_grad``). Its linear layers make a gradient
in the weight's own dtype, which a hook then adds: another 12 bytes per weight and micro-batch to move, 5 % of
Param-1's step on an H200. megatron-core's remedy (``gradient_accumulation_fusion``) needs a kernel of Apex;
torch's matrix product can do the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear as MegatronColumnParallelLinear
from megatron.core.tensor_parallel import RowParallelLinear as MegatronRowParallelLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _AddsToMainGrad(nn.Module):
    """What both kinds of layers have in common."""

    def _forward_impl(self, input: Tensor, weight: Any, **options: Any) -> Tensor:
        # megatron-core's row-parallel layer passes no group here and warns of it in every forward pass, which
        # also breaks compiled layers apart.
        options["tp_group"] = options.get("tp_group") or self.tp_group
        if not (torch.is_grad_enabled() or options["sequence_parallel"]):
            # Completion of a small model is bound by Python, a third of it the autograd function's.
            return nn.functional.linear(input, weight, options["bias"])
        if adds_to_main_grad(weight):
            bias: Tensor | None = options["bias"]
            output: Tensor = _Linear.apply(input, weight, weight.main_grad)
            return output if bias is None else output + bias
        output = super()._forward_impl(input=input, weight=weight, **options)  # type: ignore[misc]
        return output


class ColumnParallelLinear(_AddsToMainGrad, MegatronColumnParallelLinear):
    """megatron-core's layer whose output is split."""


class RowParallelLinear(_AddsToMainGrad, MegatronRowParallelLinear):
    """megatron-core's layer whose input is split."""


def adds_to_main_grad(weight: Tensor) -> bool:
    """Whether :func:`add_to_main_grads` has marked the weight."""
    return getattr(weight, "gradient_is_added_by_product", False)


def add_to_main_grads(gpt: GPTModel) -> list[nn.Parameter]:
    """Makes the linear layers of a model that DDP has been wrapped around add to ``main_grad`` themselves.

    Only where a rank has whole matrices: with tensor parallelism the gradient of a layer's input is reduced
    while that of its weight is computed, which megatron-core's own function arranges.

    Returns:
        The weights. Before each step's backward passes they need ``grad_added_to_main_grad = True``, lest
        DDP's hook add what it finds in ``grad``; DDP's ``zero_grad_buffer`` takes it away.
    """
    weights: list[nn.Parameter] = []
    linears: list[Any] = [module for module in gpt.modules() if isinstance(module, _AddsToMainGrad)]
    for linear in linears:
        # megatron-core computes deferred gradients later, in its own way.
        if linear.tp_group.size() > 1 or gpt.config.defer_embedding_wgrad_compute:
            continue
        weight = linear.weight
        if weight is None:  # Tied to the word embeddings.
            weight = gpt.shared_embedding_or_output_weight()
        if weight.requires_grad and getattr(weight, "main_grad", None) is not None:
            weight.gradient_is_added_by_product = True
            weights.append(weight)
    return weights


class _Linear(torch.autograd.Function):
    """``x W^T``, ``[..., in]`` -> ``[..., out]``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, main_grad: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        # Not with save_for_backward: other micro-batches may change it before this one's backward pass.
        ctx.main_grad = main_grad
        ctx.zeros = getattr(weight, "zero_out_wgrad", False)
        return torch.matmul(inputs, weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
        if torch.compiler.is_compiling():
            torch.ops.param_recipes.add_product(ctx.main_grad, *flat)
        else:
            add_product(ctx.main_grad, *flat)
        # DDP's hook wants to see a gradient. It adds that of weights tied to the embeddings, which also get
        # one from there (zero_out_wgrad), and looks at no other.
        unused = torch.zeros_like(weight) if ctx.zeros else torch.empty_like(weight)
        return gradient.matmul(weight), unused, None


def add_product(main_grad: Tensor, gradient: Tensor, inputs: Tensor) -> None:
    """``main_grad += gradient^T inputs``, of ``[out, in]``, ``[n, out]`` and ``[n, in]``.

    In one pass where the product can add in fp32: it can if all are fp32, and on GPUs with a recent torch.
    """
    if main_grad.dtype == inputs.dtype:
        main_grad.addmm_(gradient.t(), inputs)
    elif _can_add_in_fp32(main_grad.device, inputs.dtype):
        torch.addmm(main_grad, gradient.t(), inputs, out_dtype=main_grad.dtype, out=main_grad)
    else:
        main_grad.add_(gradient.t().matmul(inputs))


torch.library.custom_op("param_recipes::add_product", add_product, mutates_args=("main_grad",)).register_fake(
    lambda main_grad, gradient, inputs: None
)


@cache
def _can_add_in_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's ``addmm`` takes half-precision matrices and an fp32 sum here; torch 2.8's does not."""
    if device.type != "cuda":
        return False
    total = torch.ones(16, 16, dtype=torch.float32, device=device)
    matrix = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.addmm(total, matrix, matrix, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17.0).all())
