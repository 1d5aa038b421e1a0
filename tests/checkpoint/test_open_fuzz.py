"""Truncations and bit flips in every kind of stored model: read, or refused in one line, and soon."""

from __future__ import annotations

import pickle
import random
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.formats.archive import extract_archive, open_archive
from recipes.checkpoint.open import open_stored_model
from recipes.errors import UserError
from tests.support.nemo_files import FIXTURES
from tests.support.stored_forms import rank_files, zarr_directory

ARCHIVES = sorted(path.parent.name for path in FIXTURES.glob("*/model.nemo"))
SLOWEST_S = 10
Region = tuple[Path, int, int]


class Hang(BaseException):
    """Not an Exception, or the readers would turn it into a UserError."""


@contextmanager
def deadline() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SLOWEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_all(path: Path) -> None:
    with open_stored_model(path) as source:
        _ = source.model
        for tensor in source.tensors.values():
            tensor.load()


def structure_of(path: Path) -> list[Region]:
    """Where a file has structure rather than numbers: headers, indices, pickles, small files."""
    size = path.stat().st_size
    if path.suffix == ".nemo":
        found: list[Region] = []
        with open_archive(path) as archive:
            for member in archive.getmembers():
                found.append((path, member.offset, 512))
                if member.isreg() and member.size:
                    found += [(path, member.offset_data + a, n) for a, n in _edges(member.size)]
        return found
    if path.suffix == ".ckpt":
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickled = next(entry for entry in entries if entry.filename.endswith("data.pkl"))
            headers = [(path, entry.header_offset, 60) for entry in entries]
            return [
                *headers,
                (path, 0, pickled.file_size + 60),
                (path, archive.start_dir, size - archive.start_dir),
            ]
    if path.suffix == ".distcp":
        metadata = pickle.loads((path.parent / ".metadata").read_bytes())
        places = [s for s in metadata.storage_data.values() if s.relative_path == path.name]
        return [(path, s.offset + a, n) for s in places for a, n in _edges(s.length, 400)]
    return [(path, a, n) for a, n in _edges(size)]


def _edges(size: int, edge: int = 3000) -> list[tuple[int, int]]:
    if size <= 20_000:
        return [(0, size)]
    return [(0, edge), (size - edge, edge)]


def fuzz(model: Path, cases: int, seed: str, everywhere: bool = False) -> dict[str, int]:
    """Damages the model ``cases`` times, undoing each; how often it was read and refused."""
    files = [model] if model.is_file() else sorted(path for path in model.rglob("*") if path.is_file())
    files = [path for path in files if path.name != "io.json" and path.stat().st_size]
    regions = [(path, 0, path.stat().st_size) for path in files]
    if not everywhere:
        regions = [region for path in files for region in structure_of(path)]
    generator = random.Random(seed)
    outcomes = {"read": 0, "refused": 0}
    for case in range(cases):
        path, start, length = generator.choice(regions)
        content = path.read_bytes()
        broken = bytearray(content)
        if case % 4 == 3:
            broken = broken[: start + generator.randrange(length)]
        else:
            for _ in range(generator.choice([1, 1, 1, 3, 16])):
                broken[start + generator.randrange(length)] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            with deadline():
                read_all(model)
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, (case, str(error))
            outcomes["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"case {case} of {seed}: {path.name} from {start}: {error!r}") from error
        finally:
            path.write_bytes(content)
    return outcomes


KINDS: dict[str, Callable[[Path, Path], Path]] = {
    "tensor parallel": lambda out, scratch: rank_files(out, scratch, tp=2),
    "tensor and pipeline parallel": lambda out, scratch: rank_files(out, scratch, tp=2, pp=2),
    "zarr bf16": lambda out, scratch: zarr_directory(out, scratch, torch.bfloat16),
}


def made(kind: str, tmp_path: Path) -> Path:
    """The model of that kind, to be damaged."""
    if kind in KINDS:
        return KINDS[kind](tmp_path / "model", tmp_path / "scratch")
    name, form = kind.split("/")
    if form == "directory":
        extract_archive(FIXTURES / name / "model.nemo", tmp_path / "model")
        return tmp_path / "model"
    if form == "file":
        path = tmp_path / "model.nemo"
        path.write_bytes((FIXTURES / name / "model.nemo").read_bytes())
        return path
    for path in (FIXTURES / name / "ckpt").rglob("*"):
        if path.is_file() and path.name != "io.json":
            target = tmp_path / "model" / path.relative_to(FIXTURES / name / "ckpt")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "model"


ALL = [
    *(f"{name}/{form}" for name in ARCHIVES for form in ("file", "directory")),
    "nemo2_local/nemo2",
    "nemo2_v200_te/nemo2",
    *KINDS,
]


@pytest.mark.parametrize("kind", ALL)
def test_damage_is_one_line(kind: str, tmp_path: Path) -> None:
    """400 cases in all."""
    model = made(kind, tmp_path)
    read_all(model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cases = -(-400 // len(ALL))
    outcomes = fuzz(model, cases, kind)
    assert sum(outcomes.values()) == cases and outcomes["refused"] > cases // 5, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB of memory"
    read_all(model)


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_damage_is_one_line_exhaustively(kind: str, everywhere: bool, tmp_path: Path) -> None:
    """1,000 cases of each kind, at structure and anywhere."""
    model = made(kind, tmp_path)
    outcomes = fuzz(model, 1000, f"{kind} {everywhere}", everywhere)
    assert sum(outcomes.values()) == 1000 and outcomes["refused"] > 100, outcomes
