"""The image: lint, structure, and which versions it installs. Nothing is built here."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.paths import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_lint() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=path)
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_does_not_run_as_root() -> None:
    assert re.findall(r"^USER (\S+)", TEXT, re.MULTILINE)[-1] not in ("0", "root")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    allowed = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line[:1] == "!"
    ]
    for sources in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE):
        for source in sources.split():
            assert source == "." or any(source == a or source.startswith(f"{a}/") for a in allowed), source
    assert {"recipes", "tools", "conf", "pyproject.toml"} <= set(allowed)
    assert not {"outputs", ".venv", ".git"} & set(allowed)


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_requirements", ROOT / "docker/image_requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(site: Path, name: str, version: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place packages are looked for."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.setattr(sys, "path", [str(path)])
    return path


LOCK = """\
# made by a tool
numpy==2.2.6
    # via torch
Torch==2.13.0
transformer_engine==2.13
torchmetrics==1.9.0
triton==3.5.0 ; sys_platform == "linux"
"""


def test_image_packages_win_over_the_lock(script: ModuleType, site: Path) -> None:
    install(site, "torch", "2.10.0a0+b558c986e8.nv25.11")
    install(site, "Transformer_Engine", "2.9.0+70f53666")
    install(site, "torchmetrics", "1.0.0")
    pins = script.image_pins()
    assert pins == {"torch": "2.10.0a0+b558c986e8.nv25.11", "transformer-engine": "2.9.0+70f53666"}
    assert script.merged_constraints(LOCK, pins).splitlines() == [
        "# made by a tool",
        "numpy==2.2.6",
        "    # via torch",
        "torchmetrics==1.9.0",
        'triton==3.5.0 ; sys_platform == "linux"',
        "torch==2.10.0a0+b558c986e8.nv25.11",
        "transformer-engine==2.9.0+70f53666",
    ]


def test_plain_image_follows_the_lock(script: ModuleType, site: Path) -> None:
    assert script.image_pins() == {}
    assert script.merged_constraints(LOCK, {}) == LOCK


def test_replaced_torch_fails_the_build(
    script: ModuleType,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(site, "torch", "2.10.0a0+nv")
    (tmp_path / "image.txt").write_text("torch==2.10.0a0+nv\n", encoding="utf-8")
    assert script.check(tmp_path) == 0
    shadow = tmp_path / "venv"
    install(shadow, "torch", "2.13.0")
    monkeypatch.setattr(sys, "path", [str(shadow), str(site)])
    assert script.check(tmp_path) == 1
    assert "torch: 2.10.0a0+nv became 2.13.0" in capsys.readouterr().err


def test_writes_the_projects_dependencies(
    script: ModuleType, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "constraints.txt").write_text(LOCK, encoding="utf-8")
    monkeypatch.setattr(script, "PROJECT", project)
    assert script.main(["write", str(tmp_path / "out")]) == 0
    requirements = (tmp_path / "out/requirements.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("megatron-core") for line in requirements)
    assert any(line.startswith("datatrove") for line in requirements), "tools.clean must run in the image"
    assert any(line.startswith("wandb") for line in requirements), "and so must logger=wandb"
    assert (tmp_path / "out/constraints.txt").read_text(encoding="utf-8") == LOCK
    assert (tmp_path / "out/image.txt").read_text(encoding="utf-8") == ""
    assert script.main([]) == 2
