"""The commands that hand jobs to Slurm, by the scripts of docker/slurm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from recipes.config.cluster_schema import ClusterConfig
from recipes.errors import UserError
from recipes.launch.command import PROJECT, Command
from recipes.launch.job_kinds import JobKind
from recipes.launch.launched import STATE
from recipes.plan import stop_notice

SCRIPT, JOB_SCRIPT = "docker/slurm/pretrain.sbatch", "docker/slurm/job.sbatch"
CLEARED = (
    *("CONTAINER_IMAGE", "CONTAINER_FILE", "CONTAINER_MOUNTS", "CONTAINER_RUNTIME", "VENV", "DRY_RUN"),
    *("TRAIN_NODES", "HEALTH_GPUS", "HEALTH_MEMORY_GB", "HEALTH_DISK_GB", "HEALTH_COMMAND"),
    *("HEALTH_NODE_ALL_REDUCE_GB_PER_S", "HEALTH_PAIR_ALL_REDUCE_GB_PER_S"),
)
"""Variables of the scripts. What an earlier trial has left in the shell must not reach it."""


def check_directory() -> None:
    """Jobs run in the project directory, where their relative paths are looked for.

    Raises:
        UserError: this is another one, where the paths that the user has typed may mean other files.
    """
    if not Path.cwd().samefile(PROJECT):
        raise UserError(
            f"{Path.cwd()}: a job of Slurm runs in the project directory, and so it takes relative paths: "
            f"cd {PROJECT}"
        )


def submission(cluster: ClusterConfig, run: Path, overrides: list[str]) -> Command:
    """One job that trains in the run directory ``run``; the script explains the variables."""
    launch = cluster.launch
    options = _options(cluster, run) | {
        "nodes": cluster.nodes + launch.spare_nodes,
        "ntasks-per-node": cluster.gpus_per_node,
        "gpus-per-node": cluster.gpus_per_node if launch.request_gpus else 0,
    }
    env = _environment(cluster) | {
        "MAX_FAILURES": str(launch.max_failures),
        stop_notice.VARIABLE: str(launch.stop_before_limit_s),
    }
    if launch.chain > 1:
        # Jobs of one name and user, one after the other.
        options |= {"dependency": "singleton", "no-requeue": True}
        env["MAX_REQUEUE"] = "0"
    given = {
        "TRAIN_NODES": cluster.nodes if launch.spare_nodes else None,
        **{f"HEALTH_{name.upper()}": value for name, value in vars(launch.health).items()},
    }
    env |= {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in given.items()
        if value is not None
    }
    return _sbatch(options, env, SCRIPT, overrides)


def job_submission(cluster: ClusterConfig, kind: JobKind, directory: Path, arguments: list[str]) -> Command:
    """Another job, whose logs go below ``directory``."""
    launch = cluster.launch
    options = _options(cluster, directory)
    if launch.cpus_per_task is None:
        options["exclusive"] = True
    if kind.tasks == "gpus":
        options |= {"nodes": cluster.nodes, "ntasks-per-node": cluster.gpus_per_node}
        options["gpus-per-node"] = cluster.gpus_per_node if launch.request_gpus else None
    elif kind.tasks == "array":
        options |= {"array": f"0-{cluster.nodes - 1}", "output": directory / STATE / "%A_%a.out"}
    return _sbatch(
        options, _environment(cluster), JOB_SCRIPT, [str(directory / STATE), kind.module, *arguments]
    )


def _options(cluster: ClusterConfig, directory: Path) -> dict[str, object]:
    """Those that all jobs have."""
    launch = cluster.launch
    return {
        "parsable": True,
        "job-name": directory.name,
        "output": directory / STATE / "%j.out",
        "cpus-per-task": launch.cpus_per_task,
        "account": launch.account,
        "partition": launch.partition,
        "qos": launch.qos,
        "reservation": launch.reservation,
        "constraint": launch.constraint,
        "exclude": ",".join(launch.exclude) or None,
        "time": launch.time_limit,
        "signal": f"B:USR1@{launch.stop_before_limit_s}",
        "mail-user": launch.mail_user,
        "mail-type": "END,FAIL,TIME_LIMIT" if launch.mail_user else None,
    }


def _environment(cluster: ClusterConfig) -> dict[str, str]:
    launch, container = cluster.launch, cluster.launch.container
    given = {
        "VENV": launch.venv,
        "CONTAINER_RUNTIME": None if container.runtime == "none" else container.runtime,
        "CONTAINER_IMAGE": container.image,
        "CONTAINER_FILE": container.file,
        "CONTAINER_MOUNTS": ",".join(container.mounts) or None,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return dict(launch.env) | {"MAX_REQUEUE": str(launch.max_requeue)} | chosen


def _sbatch(
    options: Mapping[str, object], env: Mapping[str, str], script: str, arguments: list[str]
) -> Command:
    flags = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in options.items()
        if value is not None
    ]
    stray = [word for name in CLEARED if name in os.environ and name not in env for word in ("-u", name)]
    return Command([*(["env", *stray] if stray else []), "sbatch", *flags, script, *arguments], env)
