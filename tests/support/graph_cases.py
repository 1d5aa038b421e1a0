"""Runs on the CPU whose steps are recorded: that fails there, or a stand-in calls the function again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

from tests.support.run_cases import Outcome, run_case


def recorded_step(engine: Any, run: Any, device: Any) -> Any:
    """What step_of makes on a GPU."""
    from recipes.training.cuda_graph import RecordedStep

    return RecordedStep(engine, run, device)


class CalledAgain:
    """Does what a CUDA graph of the function would do."""

    made = 0

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        CalledAgain.made += 1

    def replay(self) -> None:
        from recipes.optim import adamw

        # A graph has no part of what is done on the host.
        with patch.object(adamw, "_is_captured", lambda tensor: True):
            self.function()


def recorded_case(overrides: list[str], *, fails: bool = False) -> tuple[Outcome, int]:
    """A run as on a GPU that records steps, and how many graphs it has made."""
    from recipes.training import cuda_graph, module

    with ExitStack() as patches:
        patches.enter_context(patch.object(module, "step_of", recorded_step))
        patches.enter_context(patch.object(cuda_graph, "waits_are_errors", nullcontext))
        if not fails:
            patches.enter_context(patch.object(cuda_graph, "record", CalledAgain))
        return run_case(overrides), CalledAgain.made


def update_fails_case(overrides: list[str]) -> Outcome:
    """A run whose micro-batches are recorded, but not its update."""
    from recipes.training import cuda_graph, module

    def record(function: Callable[[], None]) -> CalledAgain:
        if function.__name__ == "_finish":
            raise cuda_graph.CannotCaptureError("RuntimeError: not this one")
        return CalledAgain(function)

    with (
        patch.object(module, "step_of", recorded_step),
        patch.object(cuda_graph, "waits_are_errors", nullcontext),
        patch.object(cuda_graph, "record", record),
    ):
        return run_case(overrides)


def waiting_case(overrides: list[str]) -> Outcome:
    """A run whose rehearsal finds that the host would wait."""
    from contextlib import contextmanager

    from recipes.training import cuda_graph, module

    @contextmanager
    def error() -> Any:
        yield
        raise RuntimeError("called a synchronizing CUDA operation")

    with (
        patch.object(module, "step_of", recorded_step),
        patch.object(cuda_graph, "waits_are_errors", error),
    ):
        return run_case(overrides)
