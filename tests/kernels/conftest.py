"""Prints what the compiled kernels take, after the tests."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    from tests.support.kernel_launches import Compiled, table

    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    notes = [value for report in reports for name, value in report.user_properties if name == "kernel"]
    if notes:
        terminalreporter.section("kernels: a thread's registers and stack, bytes of shared memory; the most")
        for line in table([Compiled(**note) for note in notes]):
            terminalreporter.write_line(line)
