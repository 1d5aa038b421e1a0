"""The .nemo files that NeMo 2.0.0 wrote, and ways to take a .nemo apart and put it together again."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.support.paths import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "nemo"
MAIN = FIXTURES / "classic_te_torch_dist"
CONFIG = "./model_config.yaml"
METADATA = "./model_weights/.metadata"
COMMON = "./model_weights/common.pt"


def read_tar(path: Path) -> dict[str, bytes]:
    """Every file of an archive, by its name there."""
    with tarfile.open(path) as archive:
        return {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
            if member.isreg()
        }


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of plain files, directories implied."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def changed(source: Path, target: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of a .nemo with one member's content changed."""
    files = read_tar(source)
    files[member] = change(files[member])
    return write_tar(target, files)
