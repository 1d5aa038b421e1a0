"""Refuses loggers that do not exist or are not installed, without importing them."""

from __future__ import annotations

import importlib.util
from collections import Counter

from recipes.checks import one_of, refuse, refuse_ignored
from recipes.config.schema import PretrainConfig

LOGGERS = ("tensorboard", "wandb")


def validate_logger(config: PretrainConfig) -> None:
    """Checks where figures go besides metrics.jsonl."""
    for name, times in Counter(config.logger).items():
        one_of("logger", name, LOGGERS)
        if times > 1:
            refuse("logger", list(config.logger), f"names {name} twice")
        if not config.dry_run and not _installed(name):
            install = "pip install -e '.[loggers]' -c constraints.txt"
            refuse("logger", name, f"{name} is not installed: {install}")
    if "wandb" not in config.logger:
        refuse_ignored("wandb", config.wandb, "logger does not name wandb")
    for key in ("project", "entity"):
        value = getattr(config.wandb, key)
        if value is not None and not value.strip():
            refuse(f"wandb.{key}", repr(value), "is empty; give a name, or leave it out")


def _installed(package: str) -> bool:
    # A directory of that name, which wandb itself makes, has a specification too, but no file.
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
