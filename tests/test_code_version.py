"""Which code a run or a release says it was made with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes import code_version as module
from recipes.code_version import code_version


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    code_version.cache_clear()
    yield
    code_version.cache_clear()


def git(directory: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(directory), *author, *arguments], check=True, capture_output=True)


def test_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(module, "ROOT", tmp_path.resolve())
    clean = code_version()
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["modified"] is False
    (tmp_path / "file").write_text("b")
    code_version.cache_clear()
    assert code_version() == {**clean, "modified": True}
    # Installed within somebody else's checkout.
    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path.resolve() / "installed")
    code_version.cache_clear()
    assert code_version() == {**clean, "commit": None, "modified": None}


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_version()["commit"] is None and code_version()["modified"] is None
