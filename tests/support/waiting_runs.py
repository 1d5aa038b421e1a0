"""Runs on a GPU in which torch raises an error where an unlogged step would wait for the device."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from tests.support.run_cases import Outcome, run_case

SETTLED = 5
"""Steps before are compiled, rehearsed and recorded."""


def unlogged_steps_may_not_wait(overrides: list[str]) -> tuple[Outcome, int]:
    """A run, and how many of its steps were watched, with all that follows each."""
    from recipes.training.module import ParamGPT

    start: Any = ParamGPT.training_step
    watched = 0

    def step(self: ParamGPT, *args: Any) -> Any:
        nonlocal watched
        number = self.trainer.global_step + 1
        watch = number > SETTLED and not self.is_logging_step(number)
        watched += watch
        torch.cuda.set_sync_debug_mode("error" if watch else "default")
        return start(self, *args)

    try:
        with patch.object(ParamGPT, "training_step", step):
            return run_case(overrides), watched
    finally:
        torch.cuda.set_sync_debug_mode("default")
