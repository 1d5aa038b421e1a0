"""Cases that pool workers run: importable by name in a fresh process."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pretrain_case(overrides: list[str]) -> tuple[int, list[dict[str, Any]]]:
    """A whole run of recipes.pretrain; its exit code and metrics so far."""
    from recipes.config.hydra_app import compose
    from recipes.pretrain import run
    from recipes.training.rundir import read_metrics

    config = compose("pretrain", overrides)
    code = run(config)
    return code, read_metrics(Path(config.output_dir) / config.name / "metrics.jsonl")
