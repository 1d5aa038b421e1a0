"""Rows of a table by token id, whose gradients go straight to the main gradients.

torch makes a gradient of the whole table, mostly zeros, for the few thousand tokens of a micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel import VocabParallelEmbedding as MegatronVocabParallelEmbedding
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recipes.model.main_grad import AddsToMainGrad, unused_gradient


class Table(AddsToMainGrad):
    """A module whose ``weight`` is a table ``[V, d]``."""

    def can_add_to_main_grad(self, weight: Tensor) -> bool:
        """On GPUs: on the CPU torch's own gradient is faster, and small."""
        return weight.is_cuda

    def rows(self, token_ids: Tensor) -> Tensor:
        """``[...]`` -> ``[..., d]``."""
        if self.adds_to_main_grad and torch.is_grad_enabled():
            rows: Tensor = _Rows.apply(token_ids, self.weight, self.weight.main_grad)
            return rows
        return nn.functional.embedding(token_ids, self.weight)


class VocabParallelEmbedding(Table, MegatronVocabParallelEmbedding):
    """megatron-core's word embeddings."""

    def can_add_to_main_grad(self, weight: Tensor) -> bool:
        """Where the rank has the whole vocabulary."""
        whole = self.tp_group.size() == 1 and not self.reduce_scatter_embeddings
        return whole and super().can_add_to_main_grad(weight)

    def forward(self, input_: Tensor) -> Tensor:
        """``[b, s]`` -> ``[b, s, h]``."""
        if self.adds_to_main_grad:
            return self.rows(input_)
        embedded: Tensor = super().forward(input_)
        return embedded


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token_ids: Tensor, weight: Tensor, main_grad: Tensor) -> Tensor:
        ctx.save_for_backward(token_ids, weight)
        # Not with save_for_backward: other micro-batches may change it before this one's backward pass.
        ctx.main_grad = main_grad
        return nn.functional.embedding(token_ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        token_ids, weight = ctx.saved_tensors
        flat = token_ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
        if torch.compiler.is_compiling():
            torch.ops.param_recipes.add_rows(ctx.main_grad, *flat)
        else:
            add_rows(ctx.main_grad, *flat)
        return None, unused_gradient(weight), None


def add_rows(main_grad: Tensor, token_ids: Tensor, gradient: Tensor) -> None:
    """``main_grad[token_ids[i]] += gradient[i]``, of ``[V, d]``, ``[n]`` and ``[n, d]``.

    On a GPU always in the same order; on the CPU with one thread.
    """
    # Unsafe: the forward pass has looked up the same ids, and some releases of torch wait to check them.
    torch._index_put_impl_(
        main_grad, (token_ids,), gradient.to(main_grad.dtype), accumulate=True, unsafe=True
    )


torch.library.custom_op("param_recipes::add_rows", add_rows, mutates_args=("main_grad",)).register_fake(
    lambda main_grad, token_ids, gradient: None
)
