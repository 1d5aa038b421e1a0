"""The code that leaves with models of families that have no class in transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

from recipes.checkpoint.huggingface.config import architecture_of
from recipes.config.schema import ModelConfig

CODE = Path(__file__).parent / "remote_code"


def write_remote_code(directory: Path, model: ModelConfig) -> list[Path]:
    """Copies the family's two files into the directory; returns none for transformers' own classes."""
    architecture = architecture_of(model)
    if not architecture.remote:
        return []
    names = [f"{part}_{architecture.model_type}.py" for part in ("configuration", "modeling")]
    return [Path(shutil.copyfile(CODE / name, directory / name)) for name in names]
