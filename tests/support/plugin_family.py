"""A package that adds a model family, as if pip had installed it: the entry point that names its module."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.families import family as families

NAME, MODULE = "parallel_gpt", "tests.families.parallel_gpt"
CONF = Path(__file__).resolve().parents[1] / "families" / "conf"
SEARCH_PATH = f"hydra.searchpath=[file://{CONF}]"


def make_package(directory: Path) -> Path:
    """Writes what an installation leaves on the path: the metadata of a package with one entry point."""
    metadata = directory / f"{NAME}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{families.ENTRY_POINTS}]\n{NAME} = {MODULE}\n")
    return directory


def environment(package: Path) -> dict[str, str]:
    """For processes that see the package."""
    paths = [str(package), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@contextmanager
def installed(package: Path) -> Iterator[None]:
    """The package is on this process's path."""
    sys.path.append(str(package))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(package))
        _forget()


def _forget() -> None:
    families._entry_points.cache_clear()
    families.find_family.cache_clear()


def with_package(package: Path, case: Callable[..., Any], *args: Any) -> Any:
    """A case for the pool, in a process that sees the package."""
    with installed(package):
        return case(*args)
