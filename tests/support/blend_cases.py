"""Two ranks build their data: which of them writes index files?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_watched: list[str] = []
_written: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "os.mkdir") or not _watched:
        return
    path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
    writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and path.startswith(_watched[0]):
        _written.append(path)


sys.addaudithook(_audit)


def build_case(directory: str) -> tuple[int, list[str], list[tuple[str, int]], list[list[int]]]:
    """A blend of two phases on this rank: what it wrote, and what it would read."""
    import torch

    from recipes.config.phases import Phase
    from recipes.data.samples.blend import RunBlend, stretches_of
    from tests.support.sources import source

    torch.distributed.init_process_group("gloo")
    try:
        _written.clear()
        _watched[:] = [f"{directory}/cache"]
        cache = Path(directory) / "cache"
        sources = {name: source(Path(directory) / name, cache) for name in ("en", "hi")}
        phases = [Phase(0, 40, {"en": 1.0}, 8), Phase(40, 120, {"en": 1.0, "hi": 1.0}, 8)]
        blend = RunBlend(sources, stretches_of(phases, None, 0, 120))
        blend.build_epochs(0)
        samples = [blend[n]["tokens"].tolist() for n in range(120)]
        return torch.distributed.get_rank(), list(_written), [blend.locate(n) for n in range(120)], samples
    finally:
        _watched.clear()
        torch.distributed.destroy_process_group()
