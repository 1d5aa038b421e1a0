"""A throwaway Slurm for a test, by slurm_lab/cluster.sh, where this machine can have one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NOT_STARTED = 75
"""cluster.sh's exit code, if it never got to its command."""
NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")


def on_throwaway_slurm(nodes: int, directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a cluster whose files go to ``directory``; skips the test where none starts."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "munged", "unshare", "ip"))):
        pytest.skip("needs root, slurm-wlm, munge and iproute2")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")
    cluster = str(ROOT / "tests/support/slurm_lab/cluster.sh")
    done = subprocess.run(
        [cluster, str(nodes), str(directory), *command], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == NOT_STARTED:
        pytest.skip(f"a throwaway Slurm does not start here: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done
