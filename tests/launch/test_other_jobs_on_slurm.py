"""Other jobs than pretraining, by tools.launch on a real Slurm of two virtual nodes."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.clean_text import stories, write_jsonl
from tests.support.paths import ROOT
from tests.support.slurm_cluster import on_throwaway_slurm

TOKENIZER = ROOT / "tests/fixtures/nemo/nemo2_local/ckpt/context/tiny_sp.model"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def done_on_slurm(directory: Path, job: str) -> dict[str, Any]:
    """What tests/support/slurm_jobs.py tells of a job."""
    module = ("-m", "tests.support.slurm_jobs", str(directory), str(TOKENIZER), job)
    done = on_throwaway_slurm(2, directory / "slurm", sys.executable, *module)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    outcome: dict[str, Any] = told[job]
    return outcome


def test_preprocessing_is_shared_by_an_array(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in "123":
        line = json.dumps({"text": f"Asha lives in Delhi, at number {name}."})
        (tmp_path / f"shards/{name}.jsonl").write_text(f"{line}\n", encoding="utf-8")
    told = done_on_slurm(tmp_path, "preprocess")
    assert told["said"].startswith("job    ") and "outputs/jobs/preprocess-" in told["said"]
    assert told["made"] == ["1.json", "2.json", "3.json"]
    assert "shard 0 of 2: 2 files" in told["logs"] and "shard 1 of 2: 1 file," in told["logs"]
    assert "is over" in told["status"] and "exit code 0" in told["status"]


@pytest.mark.skipif(find_spec("datatrove") is None, reason="needs pip install -e '.[data]'")
def test_cleaning_submits_its_stages(tmp_path: Path) -> None:
    english = stories("en", 8)
    write_jsonl(tmp_path / "raw.jsonl", [*english, english[0], "This text is too short for it."])
    told = done_on_slurm(tmp_path, "clean")
    assert "submitted; the last job is " in told["said"]
    code, refused = told["again"]
    assert code == 2 and refused.count("\n") == 1 and "is this run already" in refused
    assert "job  " in told["queued"] and "is over" not in told["queued"]
    assert "report.html: the job is complete" in told["status"]
    assert told["report"]["sources"]["en"]["kept"]["documents"] == len(english)
    assert "exact_dedup" in told["table"]


def test_processes_of_a_bare_step_meet_on_its_first_node(tmp_path: Path) -> None:
    """As in docs/run-on-slurm.md, in an allocation: no job script says where rank 0 is."""
    told = done_on_slurm(tmp_path, "measured")
    assert told["code"] == 0, told["said"]
    assert told["answers"] == {"node0": "ok\n", "node1": "ok\n"}
