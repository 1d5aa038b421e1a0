"""AdamW for megatron-core's optimizers.

torch.optim.AdamW keeps its step count per parameter; megatron-core's reshardable optimizer checkpoints
expect it once per group, as Apex's and Transformer Engine's FusedAdam keep it, and fail to load otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.Optimizer):
    """Decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), torch's fused kernel.

    Args:
        params: parameter groups.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW.
        adam_w_mode: must be True; accepted because megatron-core passes it to FusedAdam.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        if not adam_w_mode:
            raise ValueError("only decoupled weight decay is offered")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

        self._numbers: dict[int, tuple[Tensor, Tensor]] = {}
        self.skip: Tensor | None = None
        """``[]``, fp32, on the device: 1 where the next step is to change nothing, else 0."""
        self.behind: Tensor | None = None
        """``[]``, fp32, on the device: skipped steps that groups still count; needed with skip."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("AdamW.step takes no closure")
        groups = [g for g in self.param_groups if any(p.grad is not None for p in g["params"])]
        if not (groups and _is_captured(groups[0]["params"][0])):
            self.prepare(groups)
        if self.behind is not None:
            for _, step in self._numbers.values():
                step.sub_(self.behind)
        for group in groups:
            self._step_group(group)
        if self.behind is not None and self.skip is not None:
            self.behind.add_(self.skip)

    @torch.no_grad()
    def prepare(self, groups: list[dict[str, Any]] | None = None) -> None:
        """The host's part of a step: counts it, and tells the device the step and the learning rate.

        :meth:`step` begins with it, except where a CUDA graph is captured: whoever replays the graph calls it
        before, for the groups that have parameters.
        """
        for index, group in enumerate(self.param_groups):
            if not group["params"] or (groups is not None and not any(group is each for each in groups)):
                continue
            group["step"] = group.get("step", 0) + 1
            if index not in self._numbers:
                device = group["params"][0].device
                lr, step = (torch.zeros((), dtype=torch.float32, device=device) for _ in range(2))
                self._numbers[index] = lr, step
            for tensor, value in zip(self._numbers[index], (group["lr"], group["step"]), strict=True):
                tensor.fill_(value)

    def initialize_state(self) -> None:
        """Zeros for every parameter that has no state yet."""
        for group in self.param_groups:
            self._initialize_state(group["params"])

    def _initialize_state(self, params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)

    def take_back(self) -> None:
        """Undoes :meth:`prepare` where no step has followed, or one that changed nothing."""
        for group in self.param_groups:
            if group.get("step"):
                group["step"] -= 1

    def constants(self) -> list[Any]:
        """The numbers that a captured graph of :meth:`step` has in it."""
        return [(group["betas"], group["eps"], group["weight_decay"]) for group in self.param_groups]

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        self._initialize_state(params)
        index = next(i for i, each in enumerate(self.param_groups) if each is group)
        lr, step = self._numbers[index]
        beta1, beta2 = group["betas"]
        # torch.optim's function, which calls this one, would make a tensor for the step of each parameter.
        on_cuda = lr.is_cuda
        update = torch.ops.aten._fused_adamw_
        (update.tensor_lr if on_cuda else update.default)(
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [step] * len(params),
            lr=lr if on_cuda else group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            found_inf=self.skip,
        )


def _is_captured(tensor: Tensor) -> bool:
    """Whether what is done with the tensor becomes part of a CUDA graph instead of being done."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
