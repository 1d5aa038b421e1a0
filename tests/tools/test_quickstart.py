"""The whole chain of make quickstart, with a short training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.run_directory import read_metrics
from tests.support.paths import ROOT
from tests.support.run_cases import environment
from tools.quickstart import hardware

KEYS = {
    "wall_s",
    "hardware",
    "loss",
    "accuracy",
    "resumed_at_step",
    "tokens_per_second",
    "completions",
}


def quickstart(output_dir: Path) -> str:
    settings = ["trainer.max_steps=40", "trainer.log_every_n_steps=2", "optim.lr_warmup_steps=4"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.quickstart", "--output-dir", str(output_dir), *settings],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_chain_and_a_second_run(tmp_path: Path) -> None:
    quickstart(tmp_path)
    run = tmp_path / "quickstart"
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) >= KEYS
    assert summary["loss"]["last"] < summary["loss"]["first"] and set(summary["loss"]["valid"]) == {
        "en",
        "hi",
    }
    assert set(summary["accuracy"]) == {"en", "hi"}
    for score in summary["accuracy"].values():
        assert (
            set(score) >= {"before", "after", "stderr", "n", "constant_answer"} and 0 <= score["after"] <= 1
        )
    assert len(summary["completions"]) == 2 and summary["resumed_at_step"] is not None
    metrics = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in metrics if "loss" in record] == [1, *range(2, 41, 2)]
    assert (run / "report.html").stat().st_size > 1000
    kept = [
        "model.nemo",
        "metrics.jsonl",
        "data/train_en.bin",
        "data/tokenizer.model",
        "evaluation/after.json",
    ]
    before = {name: (run / name).stat().st_mtime_ns for name in kept}
    out = quickstart(tmp_path)
    assert {name: (run / name).stat().st_mtime_ns for name in kept} == before
    assert "is complete: 40 steps" in out
    assert json.loads((run / "summary.json").read_text())["loss"] == summary["loss"]


def test_hidden_gpus_are_not_its_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H200\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert hardware() == "1 x NVIDIA H200"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "cores of" in hardware()
