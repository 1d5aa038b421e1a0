"""Other jobs than pretraining on a throwaway Slurm cluster; to be started inside of it, by cluster.sh.

``python -m tests.support.slurm_jobs DIRECTORY TOKENIZER`` tokenizes DIRECTORY/shards on two nodes and
prints a JSON object.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recipes.launch.job_kinds import job_directory
from recipes.launch.launched import queued
from tests.support.paths import ROOT

LIMIT_S = 900.0
"""Only against hanging."""
CLUSTER = [
    *("cluster=cpu_nodes", "cluster.launch.cpus_per_task=1", f"cluster.launch.venv={Path(sys.prefix)}"),
]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tools.launch", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def wait_for_end(directory: Path) -> None:
    began = time.monotonic()
    while queued(directory):
        assert time.monotonic() - began < LIMIT_S, directory
        time.sleep(0.5)


def main() -> None:
    directory, tokenizer = Path(sys.argv[1]), sys.argv[2]
    out = directory / "tokens"
    tool = [str(directory / "shards"), "--tokenizer", tokenizer, "--out-dir", str(out)]
    of_job = ROOT / job_directory("preprocess", tool)
    try:
        began = launch("job=preprocess", *CLUSTER, "cluster.nodes=2", "--", *tool)
        assert began.returncode == 0, began.stderr
        wait_for_end(of_job)
        told: dict[str, Any] = {
            "said": began.stdout,
            "status": launch("status", str(of_job)).stdout,
            "logs": launch("logs", str(of_job)).stdout,
            "made": sorted(str(path.relative_to(out)) for path in out.rglob("*.json")),
        }
        print(json.dumps(told), flush=True)
    finally:
        shutil.rmtree(of_job, ignore_errors=True)


if __name__ == "__main__":
    main()
