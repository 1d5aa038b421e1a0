"""The validation loss by which ``trainer.checkpoint.keep_best`` ranks checkpoints. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.checkpoint.save.retention import point_to_best, record_valid_loss, valid_loss_of
from recipes.console import warn
from recipes.errors import UserError
from recipes.run_directory import RunDirectory, read_metrics
from recipes.training.resume import step_of


def mean_loss(figures: Mapping[str, Any]) -> float | None:
    """Of a validation's figures: the mean of the held-out sets' losses; None if there are none."""
    losses = [value for key, value in figures.items() if key.startswith("valid.") and key.endswith(".loss")]
    return sum(losses) / len(losses) if losses else None


def record_later(checkpoint: Path, loss: float) -> None:
    """Of a validation that came after the save. A disk that refuses costs a warning, not the run."""
    try:
        record_valid_loss(checkpoint, loss)
    except UserError as error:
        warn(f"{error}; keep_best does not count {checkpoint.name}")


def finish_validation(directory: RunDirectory, checkpoint: Path, keep_best: int) -> None:
    """What a process may not have come to that was killed once a validation's figures were on the disk.

    They are not measured again, but metrics.jsonl has them: for the checkpoint, and for ``best``.

    Args:
        checkpoint: the one that the run goes on from; no other can lack a loss that was measured.
    """
    if valid_loss_of(checkpoint) is None:
        records = read_metrics(directory.metrics_file)
        losses = [mean_loss(record) for record in records if record["step"] == step_of(checkpoint)]
        measured = [loss for loss in losses if loss is not None]
        if measured:
            record_later(checkpoint, measured[-1])
    point_to_best(directory.checkpoints, keep_best)
