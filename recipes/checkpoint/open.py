"""One lazy view of every kind of stored model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from recipes.checkpoint.formats.containers import Files, open_files
from recipes.checkpoint.formats.lazy import LazyTensor
from recipes.checkpoint.formats.recognise import no_model
from recipes.checkpoint.huggingface.open_directory import open_hugging_face
from recipes.checkpoint.nemo.open_nemo import open_classic, open_nemo2
from recipes.checkpoint.save.open_run import open_training
from recipes.checkpoint.stored.stored_model import StoredModel
from recipes.errors import UserError

__all__ = ["OPENERS", "LazyTensor", "StoredModel", "open_stored_model"]

Opener = Callable[[Path, Files, bool], StoredModel | None]
OPENERS: list[Opener] = [open_classic, open_nemo2, open_training, open_hugging_face]
"""Each looks at the file names and returns None for a model of another kind."""


@contextmanager
def open_stored_model(path: Path, *, verify: bool = True, weights: str = "trained") -> Iterator[StoredModel]:
    """Opens a stored model; its tensors can be read until the context ends.

    Args:
        path: of a file or directory.
        verify: compare the files of a training checkpoint with its manifest (reads all of them once).
        weights: trained, or ema: the average that a training checkpoint holds besides its weights.

    Until then the run of a training checkpoint does not delete it.

    Raises:
        UserError: hostile, damaged, of a kind that cannot be read, or without an average.
    """
    with open_files(path) as files:
        source = _opened(path, files, verify, weights)
        with source.held or nullcontext():
            yield source


def _opened(path: Path, files: Files, verify: bool, weights: str) -> StoredModel:
    try:
        if weights == "ema":
            source = open_training(path, files, verify, averaged=True)
            if source is None:
                raise UserError(f"{path}: only a run's own checkpoints hold an average of its weights")
            return source
        for opener in OPENERS:
            source = opener(path, files, verify)
            if source is not None:
                return source
    except OSError as error:  # A directory in it may not be entered.
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    raise no_model(path)
