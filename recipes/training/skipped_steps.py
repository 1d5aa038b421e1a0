"""What the host does about steps that the device has skipped (recipes/optim/non_finite.py)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from recipes.console import say, warn
from recipes.counts import counted
from recipes.optim.loss_scale import LossScale
from recipes.optim.non_finite import take_back_skipped_step
from recipes.training.module import ParamGPT

STEP_SKIPPED = ("skipped_step", "loss_scale")
"""Events in metrics.jsonl: each is of a step that changed no weights."""


class GuardError(RuntimeError):
    """Training has gone wrong in a way that continuing would not fix; exit code 4."""


class SkippedSteps:
    """Writes down which samples a skipped step had, and stops a run that skips too many in a row.

    Args:
        model: in training.
        most_in_a_row: so many end the run.
        is_first_rank: whether to write and to print.
    """

    def __init__(self, model: ParamGPT, most_in_a_row: int, is_first_rank: bool) -> None:
        self.model, self.most_in_a_row, self.is_first_rank = model, most_in_a_row, is_first_rank
        self.in_a_row = 0
        self.overflows = 0
        """Steps in a row by which fp16's scaler looks for its scale."""

    def sound(self, step: int, scale: LossScale | None) -> None:
        """The host has learned that ``step`` was none."""
        self.in_a_row = 0
        if self.overflows and scale is not None and self.is_first_rank:
            left = self.model.total_steps - step
            say(
                f"scale  step {step:,} fits into fp16 with loss scale {scale.now:,.10g}, after "
                f"{counted(self.overflows, 'skipped step')}; {left:,} of {self.model.total_steps:,} are left"
            )
        self.overflows = 0

    def overflowed(self, step: int, scale: LossScale) -> None:
        """fp16's scaler has skipped ``step``, on all ranks: it looks for the scale that gradients bear.

        Raises:
            GuardError: it has found none down to the smallest, and it was one too many.
        """
        self.overflows += 1
        if self.is_first_rank:
            self.model.run_directory.append_metrics(
                {"event": "loss_scale", "step": step, "loss_scale": scale.now, "before": scale.before}
            )
            moved = f" instead of {scale.before:,.10g}" if scale.now < scale.before else ", as before"
            say(f"scale  step {step:,} overflows in fp16 and is skipped; loss scale {scale.now:,.10g}{moved}")
        if scale.before > scale.now or not scale.at_minimum:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row >= self.most_in_a_row:
            raise GuardError(
                f"step {step:,}: gradients overflow with trainer.fp16.min_loss_scale={scale.now:g}, "
                f"{self.in_a_row:,} times in a row. Train in bf16, or look at the data around this step"
            )

    def skipped(self, step: int, norm: float) -> None:
        """The host has learned that ``step`` was skipped. The norm is global, so every rank calls this.

        Raises:
            GuardError: it was one too many.
        """
        self.in_a_row += 1
        take_back_skipped_step(self.model.megatron_optimizer)
        if self.is_first_rank:
            record = {"event": "skipped_step", "step": step, "grad_norm": str(norm)}
            samples = samples_of(self.model, step)
            self.model.run_directory.append_metrics(record | samples)
            first, last = samples["samples"]
            warn(
                f"step {step:,} skipped: the gradient norm is {norm}; samples {first:,} to {last:,}, their "
                "documents are in metrics.jsonl"
            )
        if self.in_a_row >= self.most_in_a_row:
            steps = "" if self.in_a_row == 1 else f"{self.in_a_row:,} steps in a row were skipped; the last, "
            raise GuardError(
                f"{steps}step {step:,}: the gradient norm is {norm}. The weights are those before it. Lower "
                "optim.lr, or look at the data around this step"
            )


def samples_of(model: ParamGPT, step: int) -> dict[str, Any]:
    """A step's samples: the first and the last as data.skip counts them, and by source their documents.

    Documents are counted from 0 in the order in which they are in the source's files.
    """
    assert model.blend is not None
    first, end = (model.timeline.samples(steps) for steps in (step - 1, step))
    read = [model.blend.skip.sample(place) for place in (first, end - 1)]
    documents: dict[str, set[int]] = defaultdict(set)
    for place in range(first, end):
        source, index = model.blend.locate(place)
        documents[source].update(model.blend.sources[source].documents(index))
    return {
        "samples": read,
        "documents": {source: sorted(numbers) for source, numbers in sorted(documents.items())},
    }
