"""Files and directories that one may not read, write or enter: one line that names the path, exit code 2."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nemo_files import FIXTURES, MAIN
from tests.support.privileges import run_bound
from tests.support.stored_forms import unpacked

MODEL = MAIN / "model.nemo"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A directory with a model in it that may not be entered."""
    directory = tmp_path / "locked"
    directory.mkdir()
    shutil.copy(MODEL, directory)
    directory.chmod(0)
    yield directory
    directory.chmod(0o700)


def refused(tool: str, *arguments: object) -> str:
    done = run_bound(sys.executable, "-m", f"tools.{tool}", *arguments)
    assert done.returncode == 2 and done.stdout == "", done.stderr[-500:]
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("inspect", ["{locked}/model.nemo"]),
        ("convert", ["{locked}/model.nemo", "{free}/x", "--to", "hf"]),
        ("convert", [MODEL, "{locked}/x", "--to", "nemo"]),
        ("extract", ["{locked}/model.nemo", "{free}/x"]),
        ("extract", [MODEL, "{locked}/x"]),
        ("pack", ["{locked}/model", "{free}/x.nemo"]),
        ("pack", [FIXTURES, "{locked}/x.nemo"]),
    ],
)
def test_a_directory_that_may_not_be_entered(
    tool: str, arguments: list[object], locked: Path, tmp_path: Path
) -> None:
    free = tmp_path / "free"
    free.mkdir()
    line = refused(tool, *[str(each).format(locked=locked, free=free) for each in arguments])
    assert f"{locked}/" in line and "Permission denied" in line and not list(free.iterdir())


def test_inside_of_a_model(tmp_path: Path) -> None:
    """The directory itself, and a folder in a run."""
    model = unpacked(tmp_path / "model")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for path in (model, run / "checkpoints"):
        path.chmod(0)
        try:
            line = refused("inspect", model if path == model else run)
        finally:
            path.chmod(0o700)
        assert str(path) in line


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    directory = tmp_path / "read_only"
    directory.mkdir(mode=0o500)
    line = refused("convert", MODEL, directory / "x.nemo", "--to", "nemo")
    assert f"cannot write {directory}/x.nemo: Permission denied" in line
    line = refused("convert", MODEL, directory / "x", "--to", "hf")
    assert f"{directory}/x: cannot be written: Permission denied" in line


def test_packing_what_cannot_be_read(tmp_path: Path) -> None:
    model = unpacked(tmp_path / "model")
    (model / "notes").write_text("mine")
    (model / "notes").chmod(0)
    line = refused("pack", model, tmp_path / "x.nemo")
    assert f"{model}/notes: cannot be read: Permission denied" in line
    assert not (tmp_path / "x.nemo").exists()
