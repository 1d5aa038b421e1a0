"""The comparison of evaluation with HFLM: what is asked, and how a measurement goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from benchmarks.measure.scoring_documents import Document, documents
from benchmarks.measure.scoring_orders import AUTO, HFLM, Measured, Order, Process, Settings
from benchmarks.measure.scoring_totals import differences, together
from benchmarks.scoring import KINDS
from recipes.errors import UserError
from tests.support.paths import ROOT


@pytest.mark.parametrize("kind", KINDS)
def test_more_documents_begin_with_the_same(kind: str) -> None:
    some = documents(kind, 5, 1000)
    assert documents(kind, 9, 1000)[:5] == some
    tokens = [token for each in some for part in (each.context, *each.choices) for token in part]
    assert min(tokens) >= 3 and max(tokens) < 1000


def test_other_choices_are_counted() -> None:
    asked = [Document([1], [[2], [3]]), Document([4], [[5], [6], [7]])]
    ours = [(-1.0, True), (-2.0, False), (-3.0, False), (-2.0, True), (-4.0, False)]
    theirs = [(-1.5, True), (-2.0, False), (-1.0, True), (-2.0, False), (-4.0, False)]
    assert differences(ours, theirs, asked).startswith("1 of 2 choices differ; log-probabilities by 2.0e+00")
    assert differences(["3 4", "5"], ["3 4", "6"], [Document([1], [])] * 2).startswith("1 of 2 texts differ")


def test_slices_are_added_up() -> None:
    parts = [Measured(1.0, 2.0, 0.0, 4, 100, ["a"]), Measured(2.0, 3.0, 0.5, 4, 300, ["b", "c"])]
    assert together(parts) == Measured(3.0, 5.0, 0.5, 4, 300, ["a", "b", "c"])


def end_at_the_first_order(connection: Connection) -> None:
    """As the kernel ends a process for want of memory."""
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("batch", "named"), [(AUTO, 'HFLM, batch_size="auto", texts'), (16, "HFLM, batches of 16")]
)
def test_a_side_that_the_kernel_ends_is_one_line(batch: int, named: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=end_at_the_first_order, args=(there,))
    process.start()
    there.close()
    with Process(HFLM, Settings(Path(), "fp32", 1, 1, 1)) as side:
        side.connections, side.processes = [here], [process]
        with pytest.raises(UserError, match=f"^{named}.*: the process ended, .*leave --auto out"):
            side.run(Order("texts", 0, 1, batch))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    """With all sides in processes of their own; the second time all that it asks is known."""
    command = [sys.executable, "-m", "benchmarks.scoring", "--kinds", "letters,texts", "--documents", "4"]
    command += ["--slices", "2", "--batches", "1,2", "--trial", "2", "--processes", "2", "--out", "out"]
    command += ["--precision", "fp32", "--json", "figures.json", "model=tiny", "model.vocab_size=1000"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = []
    for _ in range(2):
        found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        printed.append(found.stdout)
    assert printed[0] == printed[1]
    # Two trials and two slices of three sides each; the better trial is HFLM's first slice.
    assert len((tmp_path / "out" / "measured.jsonl").read_text().splitlines()) == 2 * (2 + 2 * 3 - 1)
    figures = [json.loads(line) for line in (tmp_path / "figures.json").read_text().splitlines()]
    ratios = [entry for entry in figures if entry["who"] == "ratio"]
    assert [entry["kind"] for entry in ratios[:2]] == ["letters", "texts"]
    assert ratios[0]["answers"].startswith("0 of 4 choices differ")
    assert ratios[1]["answers"].startswith("0 of 4 texts differ")
