"""The table of docs/one-gpu.md is what tools.plan says."""

from __future__ import annotations

import re
import shlex

import pytest

from recipes.config.described_run import described
from recipes.counts import time_in_words
from recipes.plan.memory_check import GIB
from recipes.plan.run_plan import RunPlan, plan_run
from tests.support.paths import ROOT

CLUSTERS = ("one_rtx4090", "one_h100", "one_h200")
ROWS = [
    [cell.strip() for cell in row.split("|")[1:-1]]
    for row in (ROOT / "docs/one-gpu.md").read_text(encoding="utf-8").splitlines()
    if row.startswith("| `") and "=`" not in row.split("|")[1]
]


def cell(plan: RunPlan) -> str:
    memory = sum(plan.memory.values()) / GIB
    return f"{memory:.1f} GiB, {time_in_words(plan.seconds)}" if plan.fits else "too large"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_what_is_planned(row: list[str]) -> None:
    settings = shlex.split(f"experiment={row[0].strip('`')}")
    plans = [plan_run(*described([*settings, f"cluster={cluster}"])) for cluster in CLUSTERS]
    assert row[1:] == [f"{plans[0].tokens / 1e9:.1f}B", *map(cell, plans)]


def test_years_of_the_whole_run_are_those_of_the_plan() -> None:
    page = (ROOT / "docs/one-gpu.md").read_text(encoding="utf-8")
    plan = plan_run(*described(["experiment=param1_2p9b", "cluster=one_h100"]))
    names = {6: "six", 7: "seven", 8: "eight"}
    assert plan.fits and f"would take {names[round(plan.hours / 24 / 365)]} years there" in re.sub(
        r"\s+", " ", page
    )
    assert len(ROWS) > 8
