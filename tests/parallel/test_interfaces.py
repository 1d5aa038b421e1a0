"""A machine without a network interface is told so before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.parallel.interfaces import NO_INTERFACE, check_interfaces
from tests.support.corpus import TinyData
from tests.support.nemo_files import MAIN
from tests.support.paths import ROOT
from tests.support.tiny_text_model import FIXTURE
from tests.support.without_network import NAMESPACE, namespaces_permitted


def test_this_machine_has_one() -> None:
    check_interfaces()


@pytest.mark.skipif(not namespaces_permitted(), reason="this machine permits no network namespaces")
@pytest.mark.parametrize(
    "job",
    [
        ["recipes.evaluate", f"gpt_model_file={MAIN / 'model.nemo'}", "tasks=[boolq]", f"mirror={FIXTURE}"],
        ["recipes.generate", f"gpt_model_file={MAIN / 'model.nemo'}", "prompts=[x]"],
        ["recipes.pretrain"],
    ],
    ids=lambda job: job[0],
)
def test_a_job_says_so_before_torch_is_imported(job: list[str], tiny_data: TinyData, tmp_path: Path) -> None:
    if job == ["recipes.pretrain"]:
        job = [*job, *tiny_data.overrides(output_dir=str(tmp_path))]
    code = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'lm_eval', 'datasets'}\n"
        "atexit.register(lambda: print('heavy', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = {job!r}\n"
        f"runpy.run_module({job[0]!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([*NAMESPACE, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {NO_INTERFACE}\n")
    assert done.stdout.splitlines()[-1] == "heavy []"
