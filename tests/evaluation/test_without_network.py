"""With a mirror no evaluation looks for a network: in a process of its own, in a namespace if it may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.report.evaluation_result import read_results
from tests.support.nemo_files import MAIN
from tests.support.paths import ROOT
from tests.support.tiny_text_model import FIXTURE
from tests.support.without_network import FOUND, NAMESPACE, namespaces_permitted


def run(arguments: list[str], cache: Path, *, namespace: bool) -> subprocess.CompletedProcess[str]:
    # An empty cache, and nothing that says "offline": it is the mirror that keeps it from asking.
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in offline and not key.lower().endswith("_proxy")
    }
    command = [sys.executable, "-m", "tests.support.without_network"]
    if namespace:
        command = [*NAMESPACE, *command, "--namespace"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment | {"HF_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "namespace", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["watched", "namespace"]
)
def test_with_a_mirror_nothing_looks_for_a_network(tmp_path: Path, namespace: bool) -> None:
    if namespace and not namespaces_permitted():
        pytest.skip("this machine permits no network namespaces (unshare --map-root-user --net)")
    output = tmp_path / "result.json"
    settings = [f"gpt_model_file={MAIN / 'model.nemo'}", "tasks=[boolq,truthfulqa_mc1]", f"mirror={FIXTURE}"]
    evaluated = run(
        ["recipes.evaluate", *settings, f"output={output}", "num_threads=1"],
        tmp_path / "cache",
        namespace=namespace,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert set(read_results(output).tasks) == {"boolq", "truthfulqa_mc1"}


def test_without_one_it_does(tmp_path: Path) -> None:
    """So that the test above can fail."""
    tried = run(
        ["recipes.evaluate", f"gpt_model_file={MAIN / 'model.nemo'}", "tasks=[boolq]"],
        tmp_path / "cache",
        namespace=False,
    )
    assert tried.returncode == FOUND and tried.stderr.startswith("looked for ")
