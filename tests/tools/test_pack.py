"""python -m tools.pack: the inverse of tools.extract."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from recipes.checkpoint.formats.archive import extract_archive
from recipes.errors import UserError
from tests.support.forked import run_forked
from tests.support.nemo_files import FIXTURES, MAIN, read_tar
from tools import pack


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_forked("tools.pack", *arguments)


@pytest.mark.parametrize("name", ["classic_te_torch_dist", "classic_te_single", "classic_te_zarr"])
def test_extracted_and_packed_it_is_the_same(name: str, tmp_path: Path) -> None:
    """Same members under the same names in the same order, same bytes."""
    source = FIXTURES / name / "model.nemo"
    extract_archive(source, tmp_path / "extracted")
    done = run(tmp_path / "extracted", tmp_path / "again.nemo")
    assert done.returncode == 0 and done.stderr == "" and "packed" in done.stdout
    with tarfile.open(source, "r:") as nemos, tarfile.open(tmp_path / "again.nemo", "r:") as ours:
        # NeMo's members come in the order of the writing machine's directory.
        assert sorted(ours.getnames()) == sorted(nemos.getnames()) and ours.getnames()[0] == "."
        with (tmp_path / "again.nemo").open("rb") as file:
            assert re.match(rb"\./\x00", file.read(3))
    assert read_tar(tmp_path / "again.nemo") == read_tar(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nemo", "extracted"]


def packed(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["pack", *map(str, arguments)])
    with pytest.raises(UserError) as caught:
        pack.main()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = tmp_path / "extracted", tmp_path / "new.nemo"
    extract_archive(MAIN / "model.nemo", model)
    (tmp_path / "there.nemo").write_text("precious")
    (tmp_path / "empty").mkdir()
    assert "exists" in packed(monkeypatch, model, tmp_path / "there.nemo")
    assert (tmp_path / "there.nemo").read_text() == "precious"
    assert "hold itself" in packed(monkeypatch, model, model / "new.nemo")
    assert "no such directory" in packed(monkeypatch, tmp_path / "nowhere", target)
    assert "no model" in packed(monkeypatch, tmp_path / "empty", target)
    assert "only what was a .nemo" in packed(monkeypatch, FIXTURES / "nemo2_local" / "ckpt", target)
    config = (model / "model_config.yaml").read_text()
    (model / "model_config.yaml").write_text(config.replace("num_layers: 4", "num_layers: 5"))
    assert "num_layers=5" in packed(monkeypatch, model, target)
    (model / "model_config.yaml").write_text(config)
    (model / "link").symlink_to("/etc/passwd")
    assert "link" in packed(monkeypatch, model, target)
    assert not target.exists()


def test_user_errors_and_help() -> None:
    done = run("nowhere", "new.nemo")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    done = run("--help")
    assert done.returncode == 0 and "examples:" in done.stdout
