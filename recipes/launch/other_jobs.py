"""Launches what is not pretraining: checks it as the job itself would, then starts or submits it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from recipes.config.cluster_schema import ClusterConfig
from recipes.config.described_run import described_cluster, settings_of_run
from recipes.config.validate_launch import validate_launch
from recipes.console import say
from recipes.errors import UserError
from recipes.launch.check_job import check_cluster, check_evaluation, check_tool
from recipes.launch.job_kinds import JobKind, job_directory, kind_of
from recipes.launch.slurm import check_directory, job_submission

DRY_RUN = {"dry_run=true": True, "dry_run=false": False}


def launch_job(job: str, arguments: list[str], of_tool: list[str]) -> None:
    """Starts a job on the cluster that the arguments name, or shows what would be started.

    Args:
        arguments: the cluster's settings, and the job's if it has any.
        of_tool: what a tool gets, word for word.

    Raises:
        UserError: the job would not be understood, or cannot be submitted.
    """
    kind = kind_of(job)
    cluster = described_cluster(arguments)
    validate_launch(cluster)
    if cluster.launch.scheduler == "slurm":
        check_directory()
    check_cluster(cluster, kind, arguments)
    settings = settings_of_run(arguments)
    if kind.settings and of_tool:
        raise UserError(f"-- {of_tool[0]}: would be ignored: job={job} takes settings, key=value, before --")
    if kind.tasks == "own":
        _clean(cluster, settings)
        return
    if kind.settings:
        only_shown = check_evaluation(settings, cluster.nodes * cluster.gpus_per_node)
        words = [each for each in settings if not each.startswith("dry_run=")]
    else:
        only_shown = _only_shown(job, settings)
        check_tool(kind, of_tool, cluster.nodes)
        words = of_tool
    if cluster.launch.scheduler == "local":
        _here(cluster, kind, words, only_shown)
    else:
        _submit(cluster, job, words, only_shown)


def _only_shown(job: str, settings: list[str]) -> bool:
    for setting in settings:
        if setting not in DRY_RUN:
            raise UserError(f"{setting}: job={job} is a tool: write what it gets after --")
    return any(DRY_RUN[setting] for setting in settings)


def _here(cluster: ClusterConfig, kind: JobKind, words: list[str], only_shown: bool) -> None:
    from recipes.launch.local import local_command

    command = local_command(cluster, kind.module, words, ranks=kind.tasks == "gpus")
    if only_shown:
        print(command)
    else:
        command.replace_process()


def _submit(cluster: ClusterConfig, job: str, words: list[str], only_shown: bool) -> None:
    from recipes.launch.submit import submit

    kind, directory = kind_of(job), job_directory(job, words)
    command = job_submission(cluster, kind, directory, words)
    if only_shown:
        print(command)
        return
    for number in submit(command, directory, job):
        say(f"job    {number}: {job}; {directory}")


def _clean(cluster: ClusterConfig, settings: list[str]) -> None:
    """Cleaning cuts its input into tasks itself, and submits an array for each of its stages."""
    from recipes.config.hydra_app import compose
    from recipes.data.clean.validate import validate_clean

    on_slurm = cluster.launch.scheduler == "slurm"
    config = compose("clean", [*settings, *(_as_cleaning_settings(cluster) if on_slurm else [])])
    validate_clean(config)
    if not on_slurm:
        _here(cluster, kind_of("clean"), settings, False)
        return
    from recipes.data.clean.plan import describe, make_plan

    plan = make_plan(config)
    if config.dry_run:
        print(describe(config, plan))
        return
    from recipes.data.clean.job import clean, submitted
    from recipes.launch.launched import Launched, remember
    from recipes.launch.submit import refuse_second

    out = Path(config.output_dir)
    refuse_second(out)
    before = submitted(out)
    try:
        clean(config, plan)
    finally:  # Also of the stages before one that was refused.
        for number in submitted(out):
            if number not in before:
                remember(out, Launched(number, time.time(), "python -m tools.clean", "clean"))


def _as_cleaning_settings(cluster: ClusterConfig) -> list[str]:
    launch = cluster.launch
    venv = launch.venv or sys.prefix
    options = {
        "account": launch.account,
        "reservation": launch.reservation,
        "constraint": launch.constraint,
        "exclude": ",".join(launch.exclude) or None,
        "mail-user": launch.mail_user,
    }
    settings = {
        "partition": launch.partition,
        "qos": launch.qos,
        "time": launch.time_limit,
        "cpus_per_task": launch.cpus_per_task,
        "env_command": f"source {venv}/bin/activate",
        **{f"sbatch_args.{name}": value for name, value in options.items()},
    }
    given = [f"++slurm.{key}='{value}'" for key, value in settings.items() if value is not None]
    return ["executor=slurm", *given]
