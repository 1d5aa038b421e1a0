"""What process groups leave behind."""

from __future__ import annotations

import subprocess
import sys


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
