"""Start a described run, or another job, on a described cluster, follow it, stop it."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.arguments import Arguments
from recipes.checks import refuse
from recipes.cli import run_tool
from recipes.console import say, warn
from recipes.counts import count, counted
from recipes.errors import UserError
from recipes.launch.job_kinds import PRETRAIN

if TYPE_CHECKING:
    from recipes.config.cluster_schema import ClusterConfig
    from recipes.config.schema import PretrainConfig

EXAMPLES = """\
examples:
  python -m tools.launch experiment=param1_2p9b cluster=shakti_512xh100 cluster.launch.account=lm dry_run=true
  python -m tools.launch experiment=param1_2p9b cluster=shakti_512xh100 cluster.launch.account=lm
  python -m tools.launch status outputs/param1_2p9b
  python -m tools.launch logs outputs/param1_2p9b --lines 50
  python -m tools.launch stop outputs/param1_2p9b

  # the same run on this machine, in the foreground
  python -m tools.launch experiment=quickstart cluster=local data_dir=data

  # other jobs: a task for each GPU; job arrays; a single task, with the tool's own arguments after --
  python -m tools.launch job=evaluate cluster=shakti_512xh100 cluster.nodes=2 gpt_model_file=param1.nemo \\
    eval=param1_table mirror=benchmarks_mirror
  python -m tools.launch job=clean cluster=cpu_nodes cluster.launch.partition=cpu data=real_text \\
    output_dir=data/clean tasks=512
  python -m tools.launch job=preprocess cluster=cpu_nodes cluster.nodes=16 -- \\
    shards/ --tokenizer tok.model --out-dir data/web --workers 32
  python -m tools.launch job=convert cluster=cpu_nodes -- param1.nemo param1_hf --to hf

Arguments are those of recipes.pretrain or of the job, and cluster=NAME with cluster.KEY=VALUE
(docs/settings.md). A run that is launched again goes on. docs/run-on-slurm.md explains what a job does.
"""
VERBS = ("status", "stop", "logs")


def main() -> None:
    """Launches, or does what the verb says with a run."""
    parser = Arguments("tools.launch", __doc__, EXAMPLES)
    what = f"[job=NAME] cluster=NAME and settings of both; or {'|'.join(VERBS)} RUN"
    parser.add_argument("arguments", nargs="+", help=what)
    parser.add_argument("--lines", type=count, help="logs: lines of each node (20)")
    parser.add_argument("--follow", action="store_true", help="logs: show what comes, until Ctrl-C")
    own, of_tool = _split(sys.argv[1:])
    options = parser.parse_intermixed_args(own)
    verb = options.arguments[0] if options.arguments[0] in VERBS else None
    for flag in ("lines", "follow"):
        if getattr(options, flag) and verb != "logs":
            raise UserError(f"--{flag}: would be ignored: it belongs to logs RUN")
    if of_tool and (verb is not None or not any(each.startswith("job=") for each in options.arguments)):
        raise UserError(
            f"-- {of_tool[0]}: would be ignored: only job=NAME of a tool takes its arguments there"
        )
    if verb is not None:
        _run_and(verb, options)
    elif job := _job_of(options.arguments):
        from recipes.launch.other_jobs import launch_job

        rest = [each for each in options.arguments if not each.startswith("job=")]
        launch_job(job, rest, of_tool)
    else:
        _launch([each for each in options.arguments if not each.startswith("job=")])


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--``, and after it."""
    if "--" not in arguments:
        return arguments, []
    number = arguments.index("--")
    return arguments[:number], arguments[number + 1 :]


def _job_of(arguments: list[str]) -> str | None:
    """None: pretraining."""
    named = [each.removeprefix("job=") for each in arguments if each.startswith("job=")]
    if len(named) > 1:
        raise UserError(f"job={named[1]}: job={named[0]} is given already")
    return named[0] if named and named[0] != PRETRAIN else None


def _launch(overrides: list[str]) -> None:
    from recipes.config.described_run import described, settings_of_run
    from recipes.config.run_directory import run_directory_of
    from recipes.config.validate import validate_pretrain
    from recipes.config.validate_launch import validate_launch
    from recipes.data.tokenizer.vocabulary import with_vocab_size
    from recipes.launch.slurm import check_directory

    config, cluster = described(overrides)
    config = with_vocab_size(config)
    validate_launch(cluster)
    if cluster.launch.scheduler == "slurm":
        check_directory()
    gpus = cluster.nodes * cluster.gpus_per_node
    planned = replace(config, dry_run=True, parallel=replace(config.parallel, world_size=gpus))
    validate_pretrain(planned)
    of_run = [each for each in settings_of_run(overrides) if not each.startswith("dry_run=")]
    of_run += _processes(config, gpus, of_run)
    if cluster.launch.scheduler == "local":
        _here(config, cluster, of_run)
    else:
        _submit(config, cluster, of_run, run_directory_of(config).path)


def _processes(config: PretrainConfig, gpus: int, of_run: list[str]) -> list[str]:
    """What the run needs to be told of their number. An experiment may say how many it was meant for."""
    if config.parallel.world_size in (None, gpus):
        return []
    if any(each.lstrip("+").startswith("parallel.world_size=") for each in of_run):
        fix = f"the cluster has {gpus:,} GPUs, one for each process: change cluster.nodes, or leave this out"
        refuse("parallel.world_size", config.parallel.world_size, fix)
    return ["parallel.world_size=null"]


def _here(config: PretrainConfig, cluster: ClusterConfig, overrides: list[str]) -> None:
    from recipes.launch.local import local_command

    command = local_command(cluster, "recipes.pretrain", overrides)
    if config.dry_run:
        print(command)
    else:
        command.replace_process()


def _submit(config: PretrainConfig, cluster: ClusterConfig, overrides: list[str], run: Path) -> None:
    from recipes.launch.check_job import not_here
    from recipes.launch.preemption import preemption_of
    from recipes.launch.slurm import submission
    from recipes.launch.submit import submit
    from recipes.plan.saves import expected_save
    from recipes.plan.stop_notice import too_short

    for text in not_here(config):
        warn(text)
    save = expected_save(config, cluster, cluster.nodes * cluster.gpus_per_node)
    save_s = save.held + save.written_after
    if text := too_short(cluster.launch.stop_before_limit_s, save_s):
        warn(text)
    preemption = preemption_of(cluster.launch.partition)
    if preemption is not None and (text := preemption.too_short(save_s)):
        warn(text)
    command = submission(cluster, run, overrides)
    if config.dry_run:
        print(command)
        return
    for job in submit(command, run, PRETRAIN, cluster.launch.chain):
        say(f"job    {job}: {config.name} on {counted(cluster.nodes, 'node')}; {run}")


def _run_and(verb: str, options: Namespace) -> None:
    from recipes.launch.launched import jobs_of, log_files, stop

    if len(options.arguments) != 2:
        example = f"python -m tools.launch {verb} outputs/mine"
        raise UserError(f"{verb}: name one run directory; for example: {example}")
    run = Path(options.arguments[1])
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    if verb == "status":
        print("\n".join(_status(run)))
    elif verb == "stop":
        print("\n".join(stop(run)))
    else:
        logs = log_files(run)
        if not logs:
            if not jobs_of(run):
                figures = "its lines are where it was started, its figures in metrics.jsonl"
                raise UserError(f"{run}: was not launched on Slurm: {figures}")
            raise UserError(f"{run / 'logs/slurm'}: no logs of tasks yet")
        _tail(logs, 20 if options.lines is None else options.lines, options.follow)


def _status(run: Path) -> list[str]:
    from recipes.launch.launched import jobs_of, kind_of_jobs, queued, writer_of
    from recipes.launch.progress import job_progress, progress_lines

    try:
        lines = [f"job        {job}" for job in queued(run)]
    except UserError as error:  # What the run has written is there all the same.
        lines = [f"job        unknown: {error}"]
    if not lines and (pid := writer_of(run)) is not None:
        lines = [f"process    {pid} of this machine"]
    running = bool(lines)
    if not running:
        last = jobs_of(run)
        lines = [f"job        {last[-1].job} is over" if last else "job        none is running here"]
    return lines + (
        progress_lines(run, running) if kind_of_jobs(run) == PRETRAIN else job_progress(run, running)
    )


def _tail(logs: list[Path], lines: int, follow: bool) -> None:
    from recipes.launch.command import Command

    sys.stdout.flush()
    flags = ["--follow=name"] if follow else []
    Command(["tail", f"--lines={lines}", *flags, *map(str, logs)], {}).replace_process()


if __name__ == "__main__":
    run_tool(main)
