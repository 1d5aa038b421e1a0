"""Failures are written down as they come: benchmarks.gpu_check stops tests that take too long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.gpu_check import FAILURES


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = os.environ.get(FAILURES)
    # With several processes, the first hears of all reports.
    if path is None or not report.failed or "PYTEST_XDIST_WORKER" in os.environ:
        return
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"FAILED {report.nodeid}\n{report.longreprtext}\n\n")
