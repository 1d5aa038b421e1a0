"""python -m tools.extract."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.nemo_files import MAIN, read_tar
from tests.support.paths import ROOT
from tests.support.spy import ENGINE, spy


def extract(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.extract", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_file_arrives(tmp_path: Path) -> None:
    done = extract(MAIN / "model.nemo", tmp_path / "out")
    assert done.returncode == 0 and done.stderr == "" and "extracted" in done.stdout
    for name, content in read_tar(MAIN / "model.nemo").items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_refusals_are_one_line(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.nemo"
    with tarfile.open(hostile, "w") as archive:
        archive.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
    (tmp_path / "there").mkdir()
    for arguments, named in (
        ((hostile, tmp_path / "out"), "../evil"),
        ((tmp_path / "nowhere.nemo", tmp_path / "out"), "no such file"),
        ((MAIN / "model.nemo", tmp_path / "there"), "exists"),
        ((MAIN / "README.txt", tmp_path / "out"), "not a .nemo archive"),
    ):
        done = extract(*arguments)
        assert done.returncode == 2 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and named in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.nemo", "there"]


def test_help_imports_no_engine() -> None:
    (done,) = spy(["tools.extract", "--help"])
    assert done.code == 0 and "examples:" in done.out and not done.imported & ENGINE
