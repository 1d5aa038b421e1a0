"""The command line of the report."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.html_page import Page
from tests.support.paths import ROOT
from tests.support.report_runs import make_run, training_line


def report_tool(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.report", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_command_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [training_line(1)])
    out = tmp_path / "page.html"
    done = report_tool(run, "--out", out)
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    Page(out)
    missing = report_tool(tmp_path / "missing")
    assert missing.returncode == 2
    assert re.fullmatch(r"error: .*no such run directory\n", missing.stderr)
    assert report_tool(run, "--out", tmp_path / "no" / "where.html").returncode == 2
    several = report_tool(run, make_run(tmp_path / "other", [training_line(1)]))
    assert (several.returncode, several.stdout.strip()) == (0, str(run / "comparison.html"))
    twice = report_tool(run, run)
    assert (twice.returncode, twice.stderr) == (2, f"error: {run} is given twice\n")
    assert "examples:" in report_tool("--help").stdout
