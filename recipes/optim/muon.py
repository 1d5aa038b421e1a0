"""Muon for the layers' matrices, each treated as a whole even if this rank holds only part of it.

Momentum and orthogonalisation: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks",
with the Polar Express (arXiv 2505.16932) as the iteration. Second moment per row or column: NorMuon (arXiv
2510.05491), which has rows only; over the shorter side as in nanochat. Cautious weight decay: arXiv
2510.12402.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from recipes.optim.matrices import MatrixLayout
from recipes.optim.polar import polar_express

# Matrices of one shape are orthogonalised together, up to this many elements: launching kernels for single
# small matrices takes longer than their products, and copies of many large ones need too much memory.
BATCH_ELEMENTS = 2**25
TINY = 1e-10


class Muon(torch.optim.Optimizer):
    """One step, for every matrix W ``[R, C]`` with gradient G (mu momentum, b beta2, r decay):

        M <- mu M + (1 - mu) G
        O  = polar((1 - mu) G + mu M)                                  Nesterov look-ahead
        v <- b v + (1 - b) mean(O^2)                                   over columns if R >= C, else over rows
        N  = O / sqrt(v), scaled to the Frobenius norm of O
        W <- W - lr sqrt(max(1, R / C)) (N + r W where N and W agree in sign)

    Args:
        params: parameter groups.
        lr, momentum, weight_decay, beta2: as above.
        iterations: of the Polar Express; in bfloat16 on CUDA, in float32 on the CPU, where bfloat16 is slow.

    :attr:`layouts` must name every parameter's matrices before the first step. Gradients are consumed: after
    a step they hold the Nesterov look-ahead.

    A parameter's state: ``momentum``, of its shape, and ``second_moments``, a list with the v of each of its
    matrices, float32 ``[max(R, C)]``, the same on every tensor-parallel rank.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        iterations: int = 5,
        beta2: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.momentum, self.iterations, self.beta2 = momentum, iterations, beta2
        self.layouts: dict[Tensor, MatrixLayout] = {}
        self.skip: Tensor | None = None
        """``[]``, on the device: not 0 where the next step is to change nothing."""

    def initialize_state(self) -> None:
        """Zeros for every parameter that has no state yet."""
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    shapes = self.layouts[p].global_shapes(p.shape)
                    self.state[p]["momentum"] = torch.zeros_like(p)
                    self.state[p]["second_moments"] = [
                        torch.zeros(max(shape), dtype=torch.float32, device=p.device) for shape in shapes
                    ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter; each must have a gradient."""
        if closure is not None:
            raise ValueError("Muon.step takes no closure")
        self.initialize_state()
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p]["momentum"]
                self._move(momentum, p.grad, 1 - self.momentum)
                if self.skip is not None:
                    p.grad.masked_fill_(self.skip.bool(), 0.0)  # The iteration below needs numbers.
                p.grad.lerp_(momentum, self.momentum)
            for layout, batch in self._batches(group["params"]):
                self._update(layout, batch, group["lr"], group["weight_decay"])

    def _batches(self, params: list[Tensor]) -> Iterator[tuple[MatrixLayout, list[tuple[Tensor, int]]]]:
        """Matrices of the same shape and split, each given by its parameter and its index within that.

        They come in the order of ``params``, the same on all tensor-parallel ranks, which gather together.
        """
        by_shape: dict[Any, list[tuple[Tensor, int]]] = defaultdict(list)
        for p in params:
            layout = self.layouts[p]
            for index, shape in enumerate(layout.global_shapes(p.shape)):
                by_shape[shape, layout.partition_dim, layout.group, p.device].append((p, index))
        for (shape, *_), matrices in by_shape.items():
            size = max(1, BATCH_ELEMENTS // (shape[0] * shape[1]))
            for start in range(0, len(matrices), size):
                yield self.layouts[matrices[start][0]], matrices[start : start + size]

    def _update(
        self, layout: MatrixLayout, batch: list[tuple[Tensor, int]], lr: float, weight_decay: float
    ) -> None:
        lookahead = torch.stack([self._part(p, p.grad, index).flatten(0, 1) for p, index in batch])
        lookahead = layout.gather(lookahead.bfloat16() if lookahead.is_cuda else lookahead)
        updates = polar_express(lookahead, self.iterations).float()
        moments = [self.state[p]["second_moments"][index] for p, index in batch]
        mean_squares = updates.square().mean(dim=_shorter(updates))
        for moment, mean_square in zip(moments, mean_squares, strict=True):
            self._move(moment, mean_square, 1 - self.beta2)
        updates = normalize(updates, mean_squares, moments)
        rate = lr * max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
        for (p, index), update in zip(batch, layout.share(updates), strict=True):
            weight = self._part(p, p, index)
            update = update.reshape(weight.shape)
            agree = update * weight > 0
            change = update + weight_decay * weight * agree
            if self.skip is not None:
                change.masked_fill_(self.skip.bool(), 0.0)
            weight.sub_(change, alpha=rate)

    def _move(self, average: Tensor, to: Tensor, weight: float) -> None:
        """``average`` moves towards ``to`` in place, unless the step is skipped."""
        if self.skip is None:
            average.lerp_(to, weight)
        else:
            average.copy_(torch.where(self.skip.bool(), average, average.lerp(to, weight)))

    def _part(self, p: Tensor, tensor: Tensor | None, index: int) -> Tensor:
        """The share of one of ``p``'s matrices in a tensor of ``p``'s shape, ``[periods, rows, c]``."""
        assert tensor is not None
        return self.layouts[p].parts(tensor)[index]


def normalize(updates: Tensor, mean_squares: Tensor, moments: list[Tensor]) -> Tensor:
    """Divides rows or columns by the root of their second moments and keeps each matrix's Frobenius norm.

    Args:
        updates: ``[n, R, C]``.
        mean_squares: of their rows if R >= C, else of their columns, ``[n, max(R, C)]``.
        moments: n vectors of the same length, averages of these.

    In an orthogonalised matrix the vectors along the longer side all have length 1 already.
    """
    scale = torch.stack(moments).clamp_min(TINY).rsqrt()
    before = mean_squares.sum(dim=1, keepdim=True)
    after = (mean_squares * scale.square()).sum(dim=1, keepdim=True)
    scale = scale * (before / after.clamp_min(TINY)).sqrt()
    return updates * scale.unsqueeze(_shorter(updates))


def _shorter(matrices: Tensor) -> int:
    """The shorter side of ``[n, R, C]``, the columns if both are equal."""
    return 2 if matrices.shape[1] >= matrices.shape[2] else 1
