"""What process groups leave behind, and how many threads a process takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from recipes.config.world import World
from recipes.parallel.setup import set_cpu_threads
from tests.support.without_network import NAMESPACE, namespaces_permitted

CORES = len(os.sched_getaffinity(0))


def test_a_process_that_ends_closes_its_group() -> None:
    """NCCL complains otherwise, after every completion and evaluation."""
    code = (
        "import atexit, torch.distributed as dist\n"
        "atexit.register(lambda: print(dist.is_initialized()))\n"
        "from recipes.config.world import World\n"
        "from recipes.parallel.setup import init_process_group\n"
        "init_process_group(World())\n"
        "print(dist.is_initialized())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.skipif(not namespaces_permitted(), reason="this machine permits no network namespaces")
def test_a_machine_without_any_interface_is_told_what_is_missing() -> None:
    code = (
        "from recipes.cli import run_tool\n"
        "from recipes.config.world import World\n"
        "from recipes.parallel.setup import init_process_group\n"
        "run_tool(lambda: init_process_group(World()))\n"
    )
    done = subprocess.run([*NAMESPACE, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no network interface is up on this machine")


@pytest.mark.parametrize(
    ("given", "environment", "processes", "threads"),
    [
        (None, None, 1, CORES),
        (3, "2", 1, 3),
        (None, "5", 1, 5),
        (None, "1", 1, 1),
        (None, "5", 8, 5),
        (None, "1", 2, max(1, CORES // 2)),  # torchrun sets 1 where the user set nothing.
        (None, "4,3", 1, CORES),  # OpenMP's nested levels.
    ],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch, given: int | None, environment: str | None, processes: int, threads: int
) -> None:
    if environment is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = torch.get_num_threads()
    try:
        set_cpu_threads(given, World(size=processes, local_size=processes))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
