"""Commands as a user whom file permissions bind, which root's do not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

WITHOUT = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--"]


def run_bound(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs it; the test is skipped where root cannot give up its rights."""
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None or subprocess.run([*WITHOUT, "true"], check=False).returncode:
            pytest.skip("root cannot give up its rights here")
        before = WITHOUT
    return subprocess.run([*before, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
