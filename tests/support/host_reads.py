"""Counts how often a run reads a number out of a tensor: on a GPU every time is a wait for the device."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.run_cases import Outcome, run_case


class HostReads(TorchDispatchMode):
    """Counts ``item``, ``float``, ``bool`` and ``int`` of tensors, also inside of torch's own functions."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


def host_reads_case(overrides: list[str]) -> tuple[Outcome, dict[int, int]]:
    """A run, and how often the host read during each step, all that follows the step included."""
    from recipes.training.module import ParamGPT

    reads = HostReads()
    before: dict[int, int] = {}
    start: Any = ParamGPT.training_step

    def counted(self: Any, *args: Any) -> Any:
        before[self.trainer.global_step + 1] = reads.count
        return start(self, *args)

    ParamGPT.training_step = counted  # type: ignore[method-assign]
    try:
        with reads:
            outcome = run_case(overrides)
    finally:
        ParamGPT.training_step = start  # type: ignore[method-assign]
    steps = sorted(before)
    return outcome, {step: before[after] - before[step] for step, after in pairwise(steps)}
