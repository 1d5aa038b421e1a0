"""The files of local checkpoints on a node's own disk; no torch here.

    <directory>/rank_00003/step_00001000/common.pt       what all ranks share: counters, position in the data
                                         tensors.pt      the rank's tensors, as it holds them
                                         manifest.json   as of shared ones, with rank, layout and "after"

A node has the parts of its own ranks, and copies of those of the node before it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.checkpoint.save.manifest import (
    MANIFEST,
    finished_checkpoints,
    read_manifest,
    step_directory,
    verify,
    write_manifest,
)
from recipes.errors import UserError
from recipes.files import partial_path, put_in_place

COMMON, TENSORS = "common.pt", "tensors.pt"
RANK_DIRECTORY = re.compile(r"rank_(\d{5})")
NO_SHARED = -1


@dataclass(frozen=True)
class Part:
    """A rank's part of a local checkpoint."""

    step: int
    rank: int
    layout: str
    """Processes, how they divide the model, and what else decides which tensors a rank holds."""
    after: int
    """The step of the newest shared checkpoint at that time; NO_SHARED: there was none."""


class LocalDirectory:
    """One run's local checkpoints on this node."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, rank: int, step: int) -> Path:
        """The directory of a part."""
        return step_directory(self.path / f"rank_{rank:05d}", step)

    def new_partial(self, rank: int, step: int) -> Path:
        """An empty directory for the files of a part, until :meth:`publish`."""
        partial = partial_path(self.place(rank, step))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def publish(self, part: Part, partial: Path) -> None:
        """Makes synced files a part: the manifest first, then the name."""
        write_manifest(partial, **asdict(part))
        put_in_place(partial, self.place(part.rank, part.step), replace=True, strict=True)

    def parts(self) -> list[Part]:
        """All parts that were written to the end."""
        found = []
        for directory in self.path.glob("rank_*"):
            if RANK_DIRECTORY.fullmatch(directory.name):
                parts = [_part(path) for path in finished_checkpoints(directory)]
                found += [
                    p for p in parts if p is not None and self.place(p.rank, p.step).parent == directory
                ]
        return found

    def is_whole(self, part: Part, *, sha256: bool) -> bool:
        """Whether a part's files are as its manifest says."""
        try:
            verify(self.place(part.rank, part.step), sha256=sha256)
        except (UserError, OSError):
            return False
        return True

    def delete_others(self, step: int) -> None:
        """Deletes the parts of all steps but one."""
        for part in self.parts():
            if part.step != step:
                place = self.place(part.rank, part.step)
                (place / MANIFEST).unlink()
                shutil.rmtree(place, ignore_errors=True)

    def delete(self) -> None:
        """Deletes everything of this run."""
        shutil.rmtree(self.path, ignore_errors=True)


def is_local(checkpoint: Path) -> bool:
    """Whether a checkpoint's directory is a rank's part of a local one."""
    return (checkpoint / TENSORS).is_file()


def _part(path: Path) -> Part | None:
    try:
        manifest = read_manifest(path)
        return Part(**{key: manifest[key] for key in ("step", "rank", "layout", "after")})
    except (UserError, KeyError):
        return None
