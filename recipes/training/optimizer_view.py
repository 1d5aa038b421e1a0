"""megatron-core's optimizer as Lightning sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recipes.training.step import Step


class LightningOptimizerView(torch.optim.Optimizer):
    """Presents megatron-core's optimizer as a torch optimizer, so that Lightning counts its steps."""

    def __init__(self, halves: Step) -> None:
        self.halves = halves
        self.megatron = halves.engine.optimizer
        self.defaults: dict[str, Any] = {}
        self.state: Any = {}
        self.grad_norm: Tensor | None = None
        """Of all ranks' gradients before clipping, ``[]``, on the device."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.megatron.param_groups

    def step(self, closure: Any = None) -> Any:
        result = closure() if closure is not None else None
        self.grad_norm = self.halves.update()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.megatron.zero_grad(set_to_none)
