"""Other jobs than pretraining on a throwaway Slurm cluster; to be started inside of it, by cluster.sh.

``python -m tests.support.slurm_jobs DIRECTORY TOKENIZER JOB...`` tokenizes DIRECTORY/shards on two nodes, or
cleans DIRECTORY/raw.jsonl, or measures links, and prints a JSON object for each.
"""

from __future__ import annotations

import json
import os
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


def let_jobs_start(allowed: bool) -> None:
    """What is submitted waits otherwise."""
    state = "UP" if allowed else "DOWN"
    subprocess.run(["scontrol", "update", "PartitionName=main", f"State={state}"], check=True)


def preprocess(directory: Path, tokenizer: str) -> dict[str, Any]:
    """An array with an element for each node."""
    out = directory / "tokens"
    tool = [str(directory / "shards"), "--tokenizer", tokenizer, "--out-dir", str(out)]
    of_job = ROOT / job_directory("preprocess", tool)
    try:
        began = launch("job=preprocess", *CLUSTER, "cluster.nodes=2", "--", *tool)
        assert began.returncode == 0, began.stderr
        wait_for_end(of_job)
        return {
            "said": began.stdout,
            "status": launch("status", str(of_job)).stdout,
            "logs": launch("logs", str(of_job)).stdout,
            "made": sorted(str(path.relative_to(out)) for path in out.rglob("*.json")),
        }
    finally:
        shutil.rmtree(of_job, ignore_errors=True)


def clean(directory: Path, _: str) -> dict[str, Any]:
    """An array for each stage, which cleaning submits itself."""
    out = directory / "cleaned"
    settings = [
        f"data.sources={{en: {{path: [{directory}/raw.jsonl], language: eng_Latn}}}}",
        *(f"output_dir={out}", "tasks=2", "minhash.enabled=false", "slurm.mem_per_cpu_gb=1"),
    ]
    of_cluster = [*CLUSTER, "cluster.launch.partition=main", "cluster.launch.time_limit='00:04:00'"]
    command = ["job=clean", *of_cluster, *settings]
    # On a busy machine the jobs would be over before the second submission.
    let_jobs_start(False)
    began, again = launch(*command), launch(*command)
    assert began.returncode == 0, began.stderr
    queued_then = launch("status", str(out)).stdout
    let_jobs_start(True)
    wait_for_end(out)
    # As a user would: a task that Slurm lost on a busy machine ends by its time limit, and what waits for it
    # ends with it.
    for _ in range(2):
        if not (out / "report.json").exists():
            assert launch(*command).returncode == 0
            wait_for_end(out)
    return {
        "said": began.stdout,
        "again": [again.returncode, again.stderr],
        "queued": queued_then,
        "status": launch("status", str(out)).stdout,
        "table": launch(*command).stdout,
        "report": json.loads((out / "report.json").read_text(encoding="utf-8")),
    }


def measured(directory: Path, _: str) -> dict[str, Any]:
    """Links between nodes, by hand: processes that srun has started without a job script."""
    answers = directory / "answers"
    step = [
        "srun",
        "--nodes=2",
        "--ntasks-per-node=1",
        sys.executable,
        "-m",
        "recipes.launch.check_bandwidth",
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
    done = subprocess.run(
        [*step, str(answers), "--between", "0.00001"],
        cwd=ROOT,
        env=env | {"GLOO_SOCKET_IFNAME": "eth0"},
        capture_output=True,
        text=True,
    )
    told = {path.name: path.read_text(encoding="utf-8") for path in answers.glob("*")}
    return {"code": done.returncode, "said": done.stdout + done.stderr, "answers": told}


JOBS = {job.__name__: job for job in (preprocess, clean, measured)}


if __name__ == "__main__":
    for name in sys.argv[3:]:
        print(json.dumps({name: JOBS[name](Path(sys.argv[1]), sys.argv[2])}), flush=True)
