"""One lazy view of every kind of stored model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.checkpoint.sources.files import Files, open_files
from recipes.checkpoint.sources.huggingface import open_hugging_face
from recipes.checkpoint.sources.lazy import LazyTensor
from recipes.checkpoint.sources.nemo import open_classic, open_nemo2
from recipes.checkpoint.sources.run import open_training
from recipes.checkpoint.sources.source import Source
from recipes.errors import UserError

__all__ = ["OPENERS", "LazyTensor", "Source", "open_source"]

Opener = Callable[[Path, Files, bool], Source | None]
OPENERS: list[Opener] = [open_classic, open_nemo2, open_training, open_hugging_face]
"""Each looks at the files' names and answers None for what is not its own."""


@contextmanager
def open_source(path: Path, *, verify: bool = True) -> Iterator[Source]:
    """Opens a stored model; its tensors are read while this lasts.

    ``verify``: compare the files of a training checkpoint with its manifest (reads all of them once).

    Raises:
        UserError: hostile, damaged, or of a kind that cannot be read.
    """
    with open_files(path) as files:
        yield _opened(path, files, verify)


def _opened(path: Path, files: Files, verify: bool) -> Source:
    try:
        for opener in OPENERS:
            source = opener(path, files, verify)
            if source is not None:
                return source
    except OSError as error:  # A directory inside that may not be entered.
        raise UserError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    raise UserError(
        f"{path}: holds no model that is known here: no model_config.yaml (classic NeMo), "
        "no context/model.yaml (NeMo 2), no manifest.json or checkpoints/ (a training run), no config.json "
        "(Hugging Face)"
    )
