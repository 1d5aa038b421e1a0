"""Checks a job before it is launched, as the job itself would, with nothing heavy imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.arguments import check, understood
from recipes.checks import refuse
from recipes.config.cluster_schema import ClusterConfig
from recipes.config.hydra_app import compose
from recipes.config.schema import PretrainConfig
from recipes.config.validate_launch import KEY
from recipes.errors import UserError
from recipes.launch.job_kinds import JobKind


def check_cluster(cluster: ClusterConfig, kind: JobKind, arguments: list[str]) -> None:
    """Refuses what only a pretraining job does with a cluster.

    Args:
        arguments: what was asked for, beside what is always true of the cluster.

    Raises:
        UserError: it would be ignored.
    """
    launch = cluster.launch
    if launch.chain > 1:
        refuse(
            f"{KEY}.chain", launch.chain, "only pretraining is launched as a chain; this job requeues itself"
        )
    if launch.spare_nodes:
        refuse(f"{KEY}.spare_nodes", launch.spare_nodes, "would idle: only pretraining takes spare nodes")
    for setting in arguments:
        key, _, value = setting.partition("=")
        if key.lstrip("+").startswith(f"{KEY}.health"):
            refuse(key, value, "would be ignored: only pretraining checks its nodes")
    if kind.tasks == "one" and cluster.nodes > 1:
        refuse("cluster.nodes", cluster.nodes, f"{kind.module} runs on one node: cluster.nodes=1")
    if kind.tasks == "own" and launch.scheduler == "slurm" and launch.container.runtime != "none":
        fix = f"its stages run in the virtual environment: {KEY}.container.runtime=none"
        refuse(f"{KEY}.container.runtime", launch.container.runtime, fix)


def check_evaluation(settings: list[str], processes: int) -> bool:
    """Checks an evaluation by so many processes; returns whether it is only to be shown.

    Raises:
        UserError: as recipes.evaluate would say.
    """
    from recipes.checkpoint.formats.recognise import check_stored
    from recipes.config.validate_jobs import validate_evaluate
    from recipes.evaluation.task_files import check_task_names, with_text_tasks
    from recipes.report.published import read_published

    config = with_text_tasks(compose("evaluate", settings))
    check_task_names(config.tasks, config.task_path)
    with _ranks(processes):
        validate_evaluate(config)
    if not config.run:
        check_stored(Path(config.gpt_model_file))
        if config.check:
            read_published(Path(config.check), config.check_column, config.rows)
    return bool(config.dry_run)


def check_tool(kind: JobKind, arguments: list[str], nodes: int) -> None:
    """Checks a tool's command line, and what it names, by the tool itself as far as its work begins.

    Raises:
        UserError: as the tool would say.
    """
    main = importlib.import_module(kind.module).main
    options = vars(understood(main, arguments))
    if kind.tasks == "array":
        if options["shard"] is not None:
            raise UserError(f"--shard {options['shard']}: each of the cluster's nodes takes its own share")
        if nodes > 1 and options["out_dir"] is None:
            raise UserError(f"cluster.nodes={nodes}: one data set is made in one place; use --out-dir")
    check(main, arguments)


def not_here(config: PretrainConfig) -> list[str]:
    """Data of a run that this machine does not have. The job's nodes may."""
    from recipes.data.samples.source_files import are_there, find_prefixes

    paths = {f"data.train.{name}.path": source.path for name, source in config.data.train.items()}
    paths |= {f"data.valid.{name}": path for name, path in config.data.valid.items()}
    return [
        f"{key}={path}: not found on this machine; if the nodes lack it too, the job ends with exit code 2"
        for key, path in paths.items()
        if not are_there(find_prefixes(path))
    ]


@contextmanager
def _ranks(processes: int) -> Iterator[None]:
    """As the first of so many processes."""
    before = dict(os.environ)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(processes))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
