"""Of which optimizer step a run's model.nemo is. No torch here."""

from __future__ import annotations

from pathlib import Path

import yaml

from recipes.checkpoint.formats.archive import read_member
from recipes.errors import UserError


def stored_step(path: Path) -> int | None:
    """The step whose weights a .nemo of this project holds; None: an earlier version did not write it.

    Raises:
        UserError: it is no .nemo of a run of this project.
    """
    try:
        step = yaml.safe_load(read_member(path, "model_config.yaml"))["recipes"].get("step")
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: no run of this project has written it") from None
    return None if step is None else int(step)
