"""The code that is exported with models for which transformers has no class."""

from __future__ import annotations

import shutil
from pathlib import Path

from recipes.checkpoint.huggingface.config import architecture_of
from recipes.families.model_config import ModelConfig


def write_remote_code(directory: Path, model: ModelConfig, layout: str | None = None) -> None:
    """Copies the family's file into the directory; nothing for transformers' own classes."""
    code = architecture_of(model, layout).remote_code
    if code is not None:
        shutil.copyfile(code, directory / code.name)
