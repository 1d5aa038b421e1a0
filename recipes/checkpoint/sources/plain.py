"""YAML and JSON from a checkpoint: plain data of a bounded size."""

from __future__ import annotations

from typing import Any

import yaml

from recipes.checkpoint.safety import reason
from recipes.checkpoint.sources.blob import Blob
from recipes.errors import UserError

# NeMo's own have less than 20 kB; PyYAML needs a second for 200 kB.
LARGEST_CONFIG = 1_000_000


def read_yaml(blob: Blob) -> dict[str, Any]:
    """A mapping of plain data; nothing in it is instantiated.

    Raises:
        UserError: it is none, or too large to be a configuration.
    """
    content = blob.read(LARGEST_CONFIG)
    try:
        config = yaml.safe_load(content.decode("utf-8"))
    except Exception as error:  # PyYAML lets what its constructors raise through: ValueError, KeyError ...
        raise UserError(f"{blob.name} is not plain YAML: {reason(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{blob.name} is not a mapping")
    return config
