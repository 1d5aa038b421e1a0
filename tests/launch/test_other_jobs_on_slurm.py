"""A job array of tools.launch on a real Slurm of two virtual nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOKENIZER = ROOT / "tests/fixtures/nemo/nemo2_local/ckpt/context/tiny_sp.model"
NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_preprocessing_is_shared_by_an_array(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "munged", "unshare", "ip"))):
        pytest.skip("needs root, slurm-wlm, munge and iproute2")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")
    (tmp_path / "shards").mkdir()
    for name in "123":
        line = json.dumps({"text": f"Asha lives in Delhi, at number {name}."})
        (tmp_path / f"shards/{name}.jsonl").write_text(f"{line}\n", encoding="utf-8")
    module = (sys.executable, "-m", "tests.support.slurm_jobs", str(tmp_path), str(TOKENIZER))
    done = subprocess.run(
        [str(ROOT / "tests/support/slurm_lab/cluster.sh"), "2", str(tmp_path / "slurm"), *module],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert told["said"].startswith("job    ") and "outputs/jobs/preprocess-" in told["said"]
    assert told["made"] == ["1.json", "2.json", "3.json"]
    assert "shard 0 of 2: 2 files" in told["logs"] and "shard 1 of 2: 1 file," in told["logs"]
    assert "is over" in told["status"] and "exit code 0" in told["status"]
