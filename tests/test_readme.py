"""The README's commands do what it says, in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FEW_STEPS = "trainer.max_steps=6"


def section(readme: str, title: str) -> str:
    """The text between a heading and the next."""
    return readme.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def commands(text: str) -> list[str]:
    """Indented lines that are commands, continuations joined."""
    joined = text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"(python|torchrun|\./)", line)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks, elsewhere."""
    target = tmp_path_factory.mktemp("copy")
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, files):
        if not name.startswith("tests/") and (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def environment() -> dict[str, str]:
    bin_directory = str(Path(sys.executable).parent)
    return os.environ | {"PATH": f"{bin_directory}:{os.environ['PATH']}", "PYTHON": sys.executable}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_one_by_one(copy: Path) -> None:
    steps = commands(section((ROOT / "README.md").read_text(), "The steps, one by one"))
    assert len(steps) == 15, steps
    for command in steps:
        command = re.sub(r"trainer\.max_steps=\d+", FEW_STEPS, command)
        done = subprocess.run(
            ["bash", "-c", command], cwd=copy, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (copy / "outputs/mine_tp2_pp2/model.nemo").exists()
    assert (copy / "outputs/mine/model_extracted/model_config.yaml").exists()
    assert (copy / "outputs/mine/report.html").exists()


def test_the_refusal_is_the_one_shown() -> None:
    text = section((ROOT / "README.md").read_text(), "The steps, one by one")
    command, shown = re.search(r"\$ (python .+)\n    (error: .+)", text).groups()  # type: ignore[union-attr]
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip(), done.stdout) == (2, shown, "")


def test_every_link_leads_somewhere() -> None:
    documents = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
    ]
    for document in documents:
        for target, place in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
            if "://" not in target:
                page = document.parent / target if target else document
                assert page.exists(), f"{document.name}: {target}"
                assert not place or place in places_of(page), f"{document.name}: {target}#{place}"


def places_of(page: Path) -> set[str]:
    """What links to its headings say, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
