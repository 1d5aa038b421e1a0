"""Failures are written down as they come: benchmarks.gpu_check stops tests that take too long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.gpu_check import FAILURES


class _FailureFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"FAILED {report.nodeid}\n{report.longreprtext}\n\n")


def pytest_configure(config: pytest.Config) -> None:
    # With several processes, the first hears of all reports.
    if (path := os.environ.get(FAILURES)) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FailureFile(Path(path)))
