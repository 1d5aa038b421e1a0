"""Which checkpoints of a run stay: the newest, the best by validation loss, and every n-th."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipes.checkpoint.save.held import delete_unless_held
from recipes.checkpoint.save.manifest import finished_checkpoints, read_manifest
from recipes.errors import UserError
from recipes.files import atomic_write, partial_path

BEST = "best"
VALID_LOSS = "valid_loss"
VALIDATED_LATER = "validated_later.json"
"""Beside the manifest of a checkpoint whose step was validated after its save. The manifest stays as it is:
readers hold it, and what has been measured of the checkpoint is kept under its SHA-256.
"""


@dataclass(frozen=True)
class Best:
    """The checkpoint with the lowest validation loss (nats per token, the mean of the held-out sets)."""

    path: Path
    valid_loss: float


def steps_to_keep(
    losses: Mapping[int, float | None], keep_last: int, keep_best: int, keep_every_n_steps: int | None
) -> set[int]:
    """The steps that stay, of all those in ``losses`` (step -> its validation loss, if it has one)."""
    newest = sorted(losses)[-keep_last:]
    every = [step for step in losses if keep_every_n_steps is not None and step % keep_every_n_steps == 0]
    return {*newest, *_ranked(losses)[:keep_best], *every}


def _ranked(losses: Mapping[int, float | None]) -> list[int]:
    """Steps with a validation loss, the best first; of equals the newer."""
    measured = {step: loss for step, loss in losses.items() if loss is not None}
    return sorted(measured, key=lambda step: (measured[step], -step))


def prune(
    checkpoints: Path, *, keep_last: int, keep_best: int = 0, keep_every_n_steps: int | None = None
) -> Best | None:
    """Deletes the finished checkpoints that need not stay, and points ``best`` to the best one.

    Losses are read from the checkpoints, so a resumed run knows those of the processes before it.

    Returns:
        The best checkpoint, if ``keep_best`` asks for any and one has a validation loss.
    """
    paths, losses = _steps_and_losses(checkpoints)
    ranked = _ranked(losses) if keep_best else []
    # The link first, so that it never points to a checkpoint that is being deleted.
    _point_to(checkpoints / BEST, paths[ranked[0]].name if ranked else None)
    for step in paths.keys() - steps_to_keep(losses, keep_last, keep_best, keep_every_n_steps):
        # The manifest goes first: a half-deleted directory is then no checkpoint. What is being read, perhaps
        # by tools.convert, goes after a later save.
        if delete_unless_held(paths[step]):
            shutil.rmtree(paths[step])
    if not ranked:
        return None
    loss = losses[ranked[0]]
    assert loss is not None
    return Best(paths[ranked[0]], loss)


def point_to_best(checkpoints: Path, keep_best: int) -> None:
    """Points ``best`` to the best one of now; nothing is deleted, and without ``keep_best`` it may stay."""
    paths, losses = _steps_and_losses(checkpoints)
    if keep_best and (ranked := _ranked(losses)):
        _point_to(checkpoints / BEST, paths[ranked[0]].name)
    forget_missing_best(checkpoints)


def forget_missing_best(checkpoints: Path) -> None:
    """Removes ``best`` if the checkpoint it points to has been set aside; the next save points it anew."""
    if not (checkpoints / BEST).exists():
        _point_to(checkpoints / BEST, None)


def record_valid_loss(checkpoint: Path, loss: float) -> None:
    """Gives a finished checkpoint the loss of a validation that came after its save, for :func:`prune`.

    Raises:
        UserError: the disk refuses.
    """
    with atomic_write(checkpoint / VALIDATED_LATER) as file:
        file.write(json.dumps({VALID_LOSS: loss}).encode())


def _steps_and_losses(checkpoints: Path) -> tuple[dict[int, Path], dict[int, float | None]]:
    paths = {int(path.name.removeprefix("step_")): path for path in finished_checkpoints(checkpoints)}
    return paths, {step: valid_loss_of(path) for step, path in paths.items()}


def valid_loss_of(checkpoint: Path) -> float | None:
    """Its validation loss, if it has one that is a number."""
    try:
        facts = read_manifest(checkpoint)
    except UserError:
        # A damaged one counts among the newest until a resume sets it aside, but never as the best.
        return None
    loss = facts.get(VALID_LOSS, _loss_of_later(checkpoint / VALIDATED_LATER))
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None


def _loss_of_later(record: Path) -> object:
    try:
        return json.loads(record.read_text(encoding="utf-8"))[VALID_LOSS]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _point_to(link: Path, name: str | None) -> None:
    """Makes ``link`` a relative link to its sibling ``name``, or removes it; never absent in between."""
    if name is None:
        if link.is_symlink():
            link.unlink()
        return
    if link.is_symlink() and link.readlink() == Path(name):
        return
    temporary = partial_path(link)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(link)
