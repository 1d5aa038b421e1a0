"""The device that a run computes on: its name, memory and peak, and how much memory is free now."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from recipes.config.devices import GPUS, PEAK_FLOPS, Device, has_gpu
from recipes.config.schema import PretrainConfig
from recipes.config.world import launched_world


def planned_device(config: PretrainConfig) -> Device:
    """The device that the run is planned for.

    A plan for more processes than were launched is for another machine: of this one's GPUs, or of H100s.
    """
    if config.plan.device is not None:
        return GPUS[config.plan.device] if config.plan.device in GPUS else this_host()
    elsewhere = config.parallel.world_size not in (None, launched_world().size)
    return GPUS["h100"] if elsewhere and not has_gpu() else this_machines_device()


def this_machines_device() -> Device:
    """The GPU of this machine, or its processors."""
    if has_gpu():
        import torch

        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(0)
            peak = PEAK_FLOPS.get(properties.name)
            return Device(properties.name, properties.total_memory, True, peak)
    return this_host()


def this_host() -> Device:
    """Its processors and memory, as far as this process may use them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for limit, _ in cgroup_limits()]
    return Device("CPU", min([psutil.virtual_memory().total, *limits]), False, None, cores)


def free_bytes(device: Device, local_rank: int) -> int:
    """Memory that can still be had: of the GPU of ``local_rank``, or of the host and the control group."""
    if device.is_cuda:
        import torch

        free: int = torch.cuda.mem_get_info(local_rank)[0]
        return free
    left = [limit - used for limit, used in cgroup_limits()]
    return max(0, min([psutil.virtual_memory().available, *left]))


def cgroup_limits(
    cgroups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every control group that limits this process, of either version.

    Pages of files, which the kernel gives up before it kills, do not count as used.
    """
    found = []
    for line in _text(cgroups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # In a container the path may be the host's, while its own group is mounted at the root.
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(base):
                break
            most = _text(directory / limit).strip()
            if most.isdecimal() and int(most) < 2**60:
                stat = dict(row.split() for row in _text(directory / "memory.stat").splitlines())
                now = int(_text(directory / used) or 0) - int(stat.get(cached, 0))
                found.append((int(most), now))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
