"""Importing Lightning and megatron-core without what they only offer to others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError

LOGGERS = ("wandb", "tensorboard")
"""megatron-core imports them wherever they are installed, and goes on without them where they are not. They
take a quarter of the time in which it is imported."""
OF_METRICS = ("scipy", "transformers")
"""Lightning imports torchmetrics for the type of a metric, and that imports these wherever they are
installed, for metrics of sound and text. They take half of the time in which Lightning is imported."""


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """While it is entered, these packages seem not to be installed, unless they have been imported before."""
    from lightning_utilities.core import imports

    hidden = [name for name in packages if name not in sys.modules]
    installed_version = imports._version

    def version(distribution_name: str) -> str:
        if distribution_name in hidden:
            raise PackageNotFoundError(distribution_name)
        return installed_version(distribution_name)

    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    imports._version = version  # It is asked for before a package is imported.
    try:
        yield
    finally:
        imports._version = installed_version
        for name in hidden:
            del sys.modules[name]
