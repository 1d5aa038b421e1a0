"""The paired measurement: every step of a run is followed by one of the bare loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.logged import tensorboard_curves
from tests.support.paths import ROOT
from tests.support.run_cases import environment


@pytest.mark.slow
def test_paired(tmp_path: Path) -> None:
    figures = tmp_path / "figures.jsonl"
    options = ["--paired", "--steps", "20", "--data", str(tmp_path), "--json", str(figures)]
    settings = ["trainer.num_threads=1", "trainer.log_every_n_steps=5", "logger=tensorboard"]
    command = [sys.executable, "-m", "benchmarks.step_time", *options, *settings]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, figures.read_text().splitlines())
    assert record["windows"] == 4 and record["bare_ms"] > 0
    # The tiny model's trainer may cost a multiple of its step, but never less than the step itself.
    assert 0.5 < record["processor_ratio"] < 20 and f"{record['ratio']:.3f} by the clock" in done.stdout
    (run,) = tmp_path.glob("step_time_*")
    assert len(tensorboard_curves(run)["train/loss"]) == 8
