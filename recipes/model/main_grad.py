"""Gradients of weights that are added to megatron-core's main gradients where they are computed.

megatron-core keeps gradients of all micro-batches in fp32 (``main_grad``). Its layers make a gradient in the
weight's own dtype, which a hook then adds: another 12 bytes per weight and micro-batch to move, 7 % of
Param-1's step on an H200. megatron-core's remedy (``gradient_accumulation_fusion``) needs a kernel of Apex.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt import GPTModel
from torch import Tensor, nn


class AddsToMainGrad(nn.Module):
    """A layer that can add its weight's gradient to ``main_grad``. Mixed into megatron-core's."""

    weight: Any
    tp_group: Any
    config: Any
    adds_to_main_grad = False
    """Whether it is to do so. :func:`recipes.training.engine.build_engine` decides."""

    def can_add_to_main_grad(self, weight: Tensor) -> bool:
        """Whether this layer knows how to, for the weight that it uses: its own, or one that it shares."""
        raise NotImplementedError


def unused_gradient(weight: Tensor) -> Tensor:
    """What autograd gets in place of a gradient: DDP's hook wants to see one, and reads none of it."""
    return weight.new_empty(weight.shape)


def add_to_main_grads(gpt: GPTModel) -> list[nn.Parameter]:
    """Makes the layers of a model that DDP has been wrapped around add to ``main_grad`` themselves.

    Where layers share a weight, all of them do or none.

    Returns:
        The weights. Before each step's backward passes they need ``grad_added_to_main_grad = True``, lest
        DDP's hook add what it finds in ``grad``; DDP's ``zero_grad_buffer`` takes it away.
    """
    users: dict[nn.Parameter, list[AddsToMainGrad]] = {}
    for module in gpt.modules():
        if isinstance(module, AddsToMainGrad):
            weight = module.weight
            if weight is None:  # Tied to the word embeddings.
                weight = gpt.shared_embedding_or_output_weight()
            users.setdefault(weight, []).append(module)
    added = []
    for weight, layers in users.items():
        has_buffer = weight.requires_grad and getattr(weight, "main_grad", None) is not None
        if has_buffer and all(layer.can_add_to_main_grad(weight) for layer in layers):
            for layer in layers:
                layer.adds_to_main_grad = True
            weight.zero_out_wgrad = False  # type: ignore[attr-defined]  # The hook adds nothing more.
            added.append(weight)
    return added
