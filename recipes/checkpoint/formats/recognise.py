"""Refuses, without torch, what is no stored model and a place that cannot take one.

Torch takes seconds to import, and users should not wait for a refusal.
"""

from __future__ import annotations

from pathlib import Path

from recipes.checkpoint.formats.archive import open_archive
from recipes.checkpoint.formats.containers import DirectoryFiles, Files
from recipes.config.validate_jobs import MARKS
from recipes.errors import UserError
from recipes.files import path_errors, refuse_lfs_pointer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_stored(path: Path) -> None:
    """Refuses a path at which there can be no model; one that passes may still be damaged.

    Raises:
        UserError: nothing is there, or a file that is no archive, or a directory of something else.
    """
    with path_errors(path):
        is_directory, is_file = path.is_dir(), path.is_file()
        if is_file:
            refuse_lfs_pointer(path)
        marks = [mark for mark in MARKS if is_directory and (path / mark).exists()]
    if is_file:
        open_archive(path).close()
    elif not is_directory:
        raise UserError(f"{path}: no such file or directory")
    elif not marks:
        raise no_model(path)
    elif marks == ["config.json"]:
        check_weights(DirectoryFiles(path))


def check_new(target: Path) -> None:
    """Refuses a place to write to that is taken or whose directory does not exist.

    Raises:
        UserError: saying which.
    """
    with path_errors(target):
        if target.exists():
            raise UserError(f"{target} exists; name a new file or directory")
        if not target.absolute().parent.is_dir():
            raise UserError(f"{target.absolute().parent}: no such directory; make it first")


def check_weights(files: Files) -> None:
    """Refuses a Hugging Face directory without safetensors.

    Raises:
        UserError: there are none.
    """
    if files.find(INDEX_FILE) is not None or files.find(SINGLE_FILE) is not None:
        return
    if any(map(files.find, PICKLED)):
        raise UserError(
            f"{files.label}: its weights are pickled (.bin), which can run code when they are read; save "
            "the model with safetensors first (transformers: save_pretrained)"
        )
    raise UserError(f"{files.label}: holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def no_model(path: Path) -> UserError:
    """What to raise for a directory or an archive that holds none."""
    return UserError(
        f"{path}: holds no model that is known here: no model_config.yaml (classic NeMo), "
        "no context/model.yaml (NeMo 2), no manifest.json or checkpoints/ (a training run), no config.json "
        "(Hugging Face)"
    )
