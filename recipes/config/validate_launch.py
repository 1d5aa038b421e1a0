"""Refuses what a cluster's scheduler would not understand, or would ignore. Nothing is started here."""

from __future__ import annotations

import re

from recipes.checks import not_negative, one_of, positive, refuse
from recipes.config.cluster_schema import ClusterConfig
from recipes.config.launch_schema import HealthConfig, LaunchConfig

SCHEDULERS = ("slurm", "local")
RUNTIMES = {"slurm": ("none", "pyxis", "apptainer"), "local": ("none", "docker")}
TIME_LIMIT = re.compile(r"(\d+-)?\d{1,3}:\d\d:\d\d")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OF_SLURM = ("account", "partition", "qos", "reservation", "constraint", "exclude", "time_limit", "mail_user")
KEY = "cluster.launch"


def validate_launch(cluster: ClusterConfig) -> None:
    """Checks how a cluster starts runs.

    Raises:
        UserError: with the key, the value and the fix.
    """
    launch = cluster.launch
    positive("cluster.nodes", cluster.nodes)
    positive("cluster.gpus_per_node", cluster.gpus_per_node)
    one_of(f"{KEY}.scheduler", launch.scheduler, SCHEDULERS)
    for name in ("max_requeue", "stop_before_limit_s", "spare_nodes"):
        not_negative(f"{KEY}.{name}", getattr(launch, name))
    for name in ("max_failures", "chain"):
        positive(f"{KEY}.{name}", getattr(launch, name))
    if launch.cpus_per_task is not None:
        positive(f"{KEY}.cpus_per_task", launch.cpus_per_task)
    if launch.time_limit is not None and not TIME_LIMIT.fullmatch(launch.time_limit):
        refuse(f"{KEY}.time_limit", launch.time_limit, "write it as 24:00:00 (hours first) or 2-00:00:00")
    health, of_health = launch.health, f"{KEY}.health"
    for name in ("gpus", "memory_gb", "disk_gb", "node_all_reduce_gb_per_s", "pair_all_reduce_gb_per_s"):
        if (value := getattr(health, name)) is not None:
            positive(f"{of_health}.{name}", value)
    if launch.spare_nodes and health == HealthConfig():
        refuse(f"{KEY}.spare_nodes", launch.spare_nodes, f"would idle: nothing is checked; set {of_health}.*")
    if health.gpus is not None and health.gpus < cluster.gpus_per_node:
        refuse(f"{of_health}.gpus", health.gpus, f"cluster.gpus_per_node={cluster.gpus_per_node} are needed")
    for name in launch.env:
        if not VARIABLE.fullmatch(name):
            refuse(f"{KEY}.env", name, "is no name of a variable")
    _validate_container(launch)
    if launch.scheduler == "local":
        _validate_local(cluster)


def _validate_container(launch: LaunchConfig) -> None:
    container, key = launch.container, f"{KEY}.container"
    one_of(f"{key}.runtime", container.runtime, RUNTIMES[launch.scheduler])
    if container.runtime == "none":
        for name in ("image", "file", "mounts"):
            if value := getattr(container, name):
                refuse(f"{key}.{name}", value, f"would be ignored: {key}.runtime=none; name a runtime")
        return
    if not container.image:
        refuse(f"{key}.runtime", container.runtime, f"needs {key}.image")
    if launch.venv is not None:
        refuse(f"{KEY}.venv", launch.venv, f"would be ignored: {key}.runtime={container.runtime}")
    if container.file is not None:
        if container.runtime != "pyxis":
            refuse(f"{key}.file", container.file, f"only pyxis reads it, not {container.runtime}")
        if not container.file.endswith(".sqsh"):
            refuse(f"{key}.file", container.file, "give a name that ends with .sqsh")
    for mount in container.mounts:
        if "," in mount or not re.fullmatch(r"[^:]+:[^:]+(:[^:]+)?", mount):
            refuse(f"{key}.mounts", mount, "write SRC:DST or SRC:DST:ro")


def _validate_local(cluster: ClusterConfig) -> None:
    launch = cluster.launch
    if cluster.nodes > 1:
        refuse("cluster.nodes", cluster.nodes, f"{KEY}.scheduler=local starts processes on this machine only")
    for name in OF_SLURM:
        if value := getattr(launch, name):
            refuse(f"{KEY}.{name}", value, "would be ignored: only Slurm has it")
    if launch.chain > 1:
        refuse(f"{KEY}.chain", launch.chain, "would be ignored: only Slurm has queues")
    for name, value in vars(launch.health).items():
        if value is not None:
            refuse(f"{KEY}.health.{name}", value, "would be ignored: only jobs of Slurm check their nodes")
