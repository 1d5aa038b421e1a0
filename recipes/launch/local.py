"""The command that runs a job on this machine, in its own environment or in a container."""

from __future__ import annotations

import os
import sys

from recipes.config.cluster_schema import ClusterConfig
from recipes.launch.command import PROJECT, Command


def local_command(
    cluster: ClusterConfig, module: str, arguments: list[str], *, ranks: bool = True
) -> Command:
    """With ``ranks``, as many processes as the machine has GPUs, under torchrun if they are several."""
    launch, container = cluster.launch, cluster.launch.container
    in_container = container.runtime == "docker"
    python = "python" if in_container else _python(launch.venv)
    words = [python, "-m", module, *arguments]
    if ranks and cluster.gpus_per_node > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        words[1:1] = [*launcher, str(cluster.gpus_per_node)]
    if not in_container:
        return Command(words, launch.env)
    assert container.image is not None
    mounts = [f"{PROJECT}:{PROJECT}", *container.mounts]
    # NCCL and the data loader's workers share memory; files belong to the user, not to root.
    options = ["run", "--rm", "--init", "--ipc=host", "--ulimit", "memlock=-1"]
    options += ["--user", f"{os.getuid()}:{os.getgid()}", "--workdir", str(PROJECT)]
    if ranks and launch.request_gpus:
        options.append("--gpus=all")
    options += [word for mount in mounts for word in ("--volume", mount)]
    options += [word for name, value in launch.env.items() for word in ("--env", f"{name}={value}")]
    return Command(["docker", *options, container.image, *words], {})


def _python(venv: str | None) -> str:
    return sys.executable if venv is None else f"{venv}/bin/python"
