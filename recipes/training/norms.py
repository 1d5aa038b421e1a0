"""How large gradients, weights and updates are, by group of parameters: the same figures under every layout.

Groups: ``embedding``, ``head`` (untied), ``vectors`` (norms, biases and scalars, wherever they are), and of
the matrices ``layer_00.attention``, ``layer_00.mlp`` and so on. Of each group: ``grad_norm.<group>``, the
2-norm of its gradient before clipping; ``weight_norm.<group>``, that of its weights after the update; and
``update_ratio.<group>``, the 2-norm of what the update changed over that of the weights. ``weight_norm`` and
``update_ratio`` without a group are of all parameters, as ``grad_norm`` is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
from megatron.core.transformer.module import param_is_not_shared
from torch import Tensor, nn

from recipes.optim.kinds import parameter_kind
from recipes.optim.layer_wise import MuonAdamW


def layer_names(num_layers: int) -> list[str]:
    """What layers are called in figures: layer_00, or layer_0 where there are fewer than eleven."""
    digits = len(str(num_layers - 1))
    return [f"layer_{layer:0{digits}}" for layer in range(num_layers)]


class Piece(NamedTuple):
    """What one rank owns of a parameter: no other rank owns any of it."""

    group: int
    weight: Tensor
    """In fp32."""
    gradient: Tensor
    """The main gradient, of the same shape."""


class Norms:
    """The norms of one step: :meth:`before_update`, the update, :meth:`after_update`.

    Args:
        gpt: this rank's part of the model.
        optimizer: of its parameters.
        num_layers: of the whole model.
        clip_grad: largest norm of the gradient; 0: it is not clipped.
    """

    def __init__(
        self, gpt: GPTModel, optimizer: MegatronOptimizer, num_layers: int, clip_grad: float
    ) -> None:
        self.clip_grad = clip_grad
        layers = layer_names(num_layers)
        self.groups = ["embedding", "head", "vectors"]
        self.groups += [f"{layer}.{part}" for layer in layers for part in ("attention", "mlp")]
        number = {name: place for place, name in enumerate(self.groups)}
        groups = {parameter: number[name] for parameter, name in _group_names(gpt, layers)}
        self.pieces = [
            Piece(groups[parameter], weight, gradient)
            for parameter, weight, gradient, tensor_group in _owned(optimizer)
            if param_is_not_shared(parameter)
            and param_is_not_tensor_parallel_duplicate(parameter, tensor_group)
        ]
        owners = [piece.group for piece in self.pieces]
        self._owners = torch.tensor(owners, device=torch.cuda.current_device())
        self._before: list[Tensor] = []
        self._gradients: Tensor | None = None
        """Squares of a step whose optimizer overwrites the gradients, before clipping."""
        if isinstance(optimizer, MuonAdamW):
            self._measure_before_clipping(optimizer)

    def _measure_before_clipping(self, optimizer: MuonAdamW) -> None:
        norm_of_gradients = optimizer.get_grad_norm

        def get_grad_norm() -> Tensor:
            # megatron-core calls it once per step, when gradients are reduced and nothing else has happened.
            if self._before:
                self._gradients = self._squares([piece.gradient for piece in self.pieces])
            return norm_of_gradients()

        optimizer.get_grad_norm = get_grad_norm

    @torch.no_grad()
    def before_update(self) -> None:
        """Keeps a copy of this rank's weights: 4 bytes for each, until the step is over."""
        self._before = [piece.weight.clone() for piece in self.pieces]

    @torch.no_grad()
    def after_update(self, grad_norm: Tensor) -> dict[str, float]:
        """The step's figures, the same on every rank. All ranks must call it.

        ``grad_norm``: of all gradients, before clipping, ``[]``.
        """
        weights = [piece.weight for piece in self.pieces]
        if weights:
            torch._foreach_sub_(self._before, weights)
        updates, self._before = self._squares(self._before), []
        gradients, self._gradients = self._gradients, None
        if gradients is None:
            gradients = self._squares([piece.gradient for piece in self.pieces])
            if self.clip_grad:  # In place.
                scale = (self.clip_grad / (grad_norm.double() + 1e-6)).clamp(max=1.0)
                gradients /= scale.square()
        squares = torch.stack((gradients, self._squares(weights), updates))
        dist.all_reduce(squares)
        return self._figures(squares.tolist())

    def _squares(self, tensors: list[Tensor]) -> Tensor:
        """Squared norms by group, ``[groups]``, of one tensor for each of this rank's pieces."""
        squares = torch.zeros(len(self.groups), dtype=torch.float64, device=torch.cuda.current_device())
        if tensors:
            squares.index_add_(0, self._owners, torch.stack(torch._foreach_norm(tensors)).double().square())
        return squares

    def _figures(self, squares: list[list[float]]) -> dict[str, float]:
        gradients, weights, updates = squares
        figures = {
            "weight_norm": sum(weights) ** 0.5,
            "update_ratio": (sum(updates) / max(sum(weights), 1e-30)) ** 0.5,
        }
        for place, name in enumerate(self.groups):
            if weights[place] or gradients[place]:  # There is no head where it is tied.
                figures[f"grad_norm.{name}"] = gradients[place] ** 0.5
                figures[f"weight_norm.{name}"] = weights[place] ** 0.5
                figures[f"update_ratio.{name}"] = (updates[place] / max(weights[place], 1e-30)) ** 0.5
        return figures


def _group_names(gpt: GPTModel, layers: list[str]) -> Iterator[tuple[nn.Parameter, str]]:
    numbers = [layer.layer_number for layer in gpt.decoder.layers]
    for name, parameter in gpt.named_parameters():
        kind = parameter_kind(name, parameter.shape, tied=gpt.share_embeddings_and_output_weights)
        if kind == "matrix":
            place, _, rest = name.removeprefix("decoder.layers.").partition(".")
            part = "mlp" if rest.startswith("mlp.") else "attention"
            yield parameter, f"{layers[numbers[int(place)] - 1]}.{part}"
        else:
            yield parameter, "vectors" if kind == "vector" else kind


def _owned(optimizer: MegatronOptimizer) -> Iterator[tuple[nn.Parameter, Tensor, Tensor, Any]]:
    """A parameter, this rank's part of its fp32 weights and main gradient, its tensor-parallel group."""
    if isinstance(optimizer, MuonAdamW):
        for parameter, main in optimizer.owned:
            yield parameter, main, parameter.main_grad, None
        return
    for each in optimizer.chained_optimizers:
        assert isinstance(each, DistributedOptimizer)
        for parameters, mains in (
            (each.model_float16_groups, each.shard_fp32_from_float16_groups),
            (each.model_fp32_groups, each.shard_fp32_groups),
        ):
            for parameter, main in zip(chain(*parameters), chain(*mains), strict=True):
                part = each._get_model_param_range_map(parameter)["param"]
                gradient = parameter.main_grad.view(-1)[part.start : part.end]
                yield parameter, main, gradient, getattr(each, "tp_group", None)
