"""What saves cost, out of the times of steps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure.checkpoint_save import BEGINS, PUBLISHED, QUIET, UNDER_WAY, saves_of
from tests.support.paths import ROOT
from tests.support.run_cases import environment


def test_a_save_in_the_background() -> None:
    steps = [(1.0, UNDER_WAY), (1.0, QUIET), (1.5, BEGINS), (1.25, UNDER_WAY), (1.0, UNDER_WAY)]
    (save,) = saves_of([*steps, (1.125, PUBLISHED), (1.0, QUIET)], 1.0)
    assert (save.begins, save.published, save.under_way) == (0.5, 0.125, [1.25, 1.0])
    assert save.stall == 0.625 and save.took == 0.5 + 1.25 + 1.0 + 1.125 and save.lost == 0.875


def test_a_save_that_is_waited_for() -> None:
    (save,) = saves_of([(1.0, QUIET), (3.0, BEGINS), (1.0, QUIET)], 1.0)
    assert save.stall == save.took == save.lost == 2.0


def test_one_that_is_not_written_in_time_is_left_out() -> None:
    (save,) = saves_of([(1.5, BEGINS), (1.0, UNDER_WAY), (4.0, BEGINS), (1.0, PUBLISHED)], 1.0)
    assert save.begins == 3.0 and save.took == 4.0


@pytest.mark.slow
def test_measured(tmp_path: Path) -> None:
    figures = tmp_path / "figures.jsonl"
    options = ["--every", "10", "--saves", "2", "--turns", "1", "--data", str(tmp_path)]
    options += ["--json", str(figures), "data.seq_length=32"]
    command = [sys.executable, "-m", "benchmarks.checkpoint_save", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    waited, background = map(json.loads, figures.read_text().splitlines())
    assert (waited["who"], waited["stall_share"]) == ("waited for", 1.0)
    assert background["who"] == "background" and background["save_ms"] > 0
    assert "training stood still" in done.stdout
