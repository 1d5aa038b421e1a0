"""What memory a process may use: the host's, and its control groups'."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from recipes.plan.machine import cgroup_limits, free_bytes, this_host

GIB = 2**30


def group(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n", encoding="ascii")


@pytest.mark.parametrize("version", [1, 2])
def test_the_groups_above_count_too(tmp_path: Path, version: int) -> None:
    base = tmp_path / "memory" if version == 1 else tmp_path
    limit = "memory.limit_in_bytes" if version == 1 else "memory.max"
    used = "memory.usage_in_bytes" if version == 1 else "memory.current"
    cached = "total_inactive_file" if version == 1 else "inactive_file"
    group(base / "job", {limit: str(8 * GIB), used: str(3 * GIB), "memory.stat": f"anon 5\n{cached} {GIB}"})
    unlimited = str(2**63 - 4096) if version == 1 else "max"
    group(base / "job" / "step", {limit: unlimited, used: str(2 * GIB)})
    lines = "4:memory:/job/step\n0::/\n" if version == 1 else "0::/job/step\n"
    (tmp_path / "cgroup").write_text(lines, encoding="ascii")
    assert cgroup_limits(tmp_path / "cgroup", tmp_path) == [(8 * GIB, 2 * GIB)]


def test_no_groups(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "cgroup", tmp_path) == []
    (tmp_path / "cgroup").write_text("3:cpu,cpuacct:/x\n0::/gone\n", encoding="ascii")
    assert cgroup_limits(tmp_path / "cgroup", tmp_path) == []


def test_this_host() -> None:
    host = this_host()
    assert 0 < free_bytes(host, 0) <= host.memory <= psutil.virtual_memory().total
    assert host.cores > 0
