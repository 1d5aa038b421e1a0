"""Where a run starts: from scratch, its own checkpoint, or another run's weights or state."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.checkpoint.formats.recognise import check_stored
from recipes.checkpoint.formats.safety import load_plain
from recipes.checkpoint.save.manifest import MANIFEST, newest_whole_checkpoint, verify
from recipes.console import warn
from recipes.errors import UserError

if TYPE_CHECKING:
    from megatron.core.models.gpt import GPTModel


@dataclass(frozen=True)
class Start:
    """Where a run starts."""

    checkpoint: Path | None
    """This run's, to resume from."""
    step: int = 0
    """The checkpoint's."""
    consumed_tokens: int = 0
    """Up to the checkpoint."""
    init_from: Path | None = None
    """Another run's, to start from; None if this run has a checkpoint to resume from."""
    skip: list[list[int]] = field(default_factory=list)
    """Samples that are left out: data.skip and those of loss spikes."""
    validated: bool = False
    """Whether the run has a validation of the checkpoint's step."""
    lacks: list[str] = field(default_factory=list)
    """Of the end of a run whose checkpoint is that of its last step: see ``lacking.py``."""
    complete: bool = False
    """Whether nothing is left to do."""
    is_local: bool = False
    """Whether the checkpoint is a local one: each rank has its own part."""
    local_id: str = ""
    """What local checkpoints of this run are known by; empty: it writes none."""
    shared_step: int | None = None
    """Of the run's newest shared checkpoint."""


def find_start(init_from: str, *, full: bool, sha256: bool) -> Path:
    """The checkpoint, whole and verified, or the .nemo that ``init_from`` names.

    Args:
        init_from: of the settings.
        full: the optimizer's state is wanted, too.
        sha256: compare the contents of a checkpoint's files.

    Raises:
        UserError: there is none, it is damaged, or it holds weights only and more is wanted.
    """
    path = _stored_at(init_from, sha256=sha256)
    if full and not _has_state(path):
        raise UserError(
            f"init_from_state=full: {path} holds weights only; name a checkpoint that a run has saved, or "
            "leave init_from_state out"
        )
    return path


def _has_state(path: Path) -> bool:
    """A mean, or what tools.convert has written, is a checkpoint of no run: nothing was trained on."""
    if not (path / MANIFEST).is_file():
        return False
    state = load_plain(path / "common.pt").get("recipes")
    return isinstance(state, dict) and "consumed_tokens" in state


def _stored_at(init_from: str, *, sha256: bool) -> Path:
    path = Path(init_from)
    if (path / MANIFEST).is_file():
        verify(path, sha256=sha256)
        return path
    if (path / "checkpoints").is_dir():
        checkpoint = newest_whole_checkpoint(path / "checkpoints", warn, sha256=sha256)
        if checkpoint is None:
            raise UserError(f"init_from={init_from}: the run has no finished checkpoint yet")
        return checkpoint
    if not path.exists():
        raise UserError(
            f"init_from={init_from}: does not exist; name a run directory, one of its checkpoints, or a .nemo"
        )
    check_stored(path)
    return path


def load_start_weights(path: Path, gpt: GPTModel) -> None:
    """Fills ``gpt`` from a training checkpoint or a .nemo of any layout, before its optimizer is built.

    Raises:
        UserError: the stored tensors are not those of the configured model.
    """
    from recipes.checkpoint.open import open_stored_model
    from recipes.checkpoint.save.training_state import load_checkpoint_weights
    from recipes.checkpoint.stored.fill import load_weights

    if (path / MANIFEST).is_file():
        load_checkpoint_weights(path, gpt)
        return
    with open_stored_model(path) as source:
        load_weights(source, gpt)
