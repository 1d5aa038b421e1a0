"""A run to which everything happens that a run must survive: how much of its time is useful, what is lost."""

from __future__ import annotations

from argparse import Namespace

from benchmarks.door import THE_QUICK_START, add_run_options, check_run, measure
from benchmarks.measure.planned_faults import ENDING, OF_CLUSTER, PASSING
from recipes.arguments import Arguments
from recipes.checks import one_of
from recipes.cli import run_tool
from recipes.counts import count
from recipes.errors import UserError

PROCESSES = 2
EXAMPLES = """\
examples:
  python -m benchmarks.goodput                               # each kind of fault once, two processes
  python -m benchmarks.goodput --faults 27 --seed 2 --json goodput.jsonl
  python -m benchmarks.goodput --faults 3 --processes 1 model=nano_hindi_25m model.vocab_size=auto

  # as a job of Slurm, by tools.launch; --data on a file system that all nodes share
  python -m benchmarks.goodput --data /shared/goodput cluster=shakti_512xh100 cluster.nodes=2 \\
    cluster.launch.account=lm trainer.global_batch_size=64
  python -m benchmarks.goodput --data /shared/goodput cluster=shakti_512xh100 cluster.nodes=2 \\
    cluster.launch.account=lm trainer.global_batch_size=64 --kinds preempted,node_lost \\
    --lose-node 'ssh root@$NODE reboot -f'

Trains once undisturbed, then with faults at random steps: a killed rank, an exception, a rank that hangs,
SIGTERM, a full disk, a damaged checkpoint, a slow rank, NaN gradients, a loss spike. After what ends the run,
the same command is started again, as the Slurm job does it; after a full disk, which ends the job, too.
Prints for each fault how long it took to be noticed, to train again, and to train a step that had not been
trained before; and goodput: useful steps times the median time of a step, over the time of the whole run.

With cluster=NAME the job requeues itself, and three kinds more belong to the schedule: preempted, unfit_node
(a process is killed, and one node fails the health check of the next start) and, where --lose-node says how,
node_lost. Both take a node from the job for good, so that as many others must be free. What Slurm needs to
notice a lost node (SlurmdTimeout) and to start a job again is part of the recovery.

Exit code 1 if a recovery took longer than --aim, if steps were lost from before the last checkpoint, or if
losses or the last checkpoint's tensors differ in a bit from the undisturbed run's, which skips the same step
and leaves out the same samples.
"""


def main() -> None:
    """Parses the command line, then trains."""
    parser = Arguments("benchmarks.goodput", __doc__, EXAMPLES)
    parser.add_argument("--faults", type=count, help="how many (default: one of each kind)")
    parser.add_argument(
        "--kinds", metavar="KIND,...", help=f"of {', '.join((*ENDING, *PASSING, *OF_CLUSTER))}"
    )
    parser.add_argument("--steps", type=count, help="steps of the run (default: as few as hold the faults)")
    add_run_options(parser, every=5, processes=PROCESSES)
    parser.set_defaults(processes=None)  # Whether it is given counts.
    parser.add_argument(
        "--aim", type=float, default=60.0, metavar="SECONDS", help="for each recovery (default %(default)g)"
    )
    parser.add_argument(
        "--lose-node",
        metavar="COMMAND",
        help="cluster=NAME: cuts the power of the node that NODE names",
    )
    parser.add_argument(
        "--preempt-from",
        metavar="PARTITION",
        help="cluster=NAME: a partition with precedence over the job's (default: scontrol requeue)",
    )
    measure(parser, settings=THE_QUICK_START, check=check_options)


def check_options(options: Namespace) -> None:
    """Refuses what does not fit together; ``options.cluster`` gets the cluster, None without one, and
    ``options.kinds`` and ``options.processes`` what is left open.

    Raises:
        UserError: with the option or setting.
    """
    from recipes.config.described_run import described_cluster, settings_of_run

    of_run = settings_of_run(options.overrides)
    check_run(of_run)
    options.cluster = None if of_run == options.overrides else described_cluster(options.overrides)
    possible = [*ENDING, *PASSING]
    if options.cluster is None:
        for flag in ("lose_node", "preempt_from"):
            if getattr(options, flag) is not None:
                raise UserError(f"--{flag.replace('_', '-')}: would be ignored: name a cluster=NAME of Slurm")
        options.processes = options.processes or PROCESSES
    else:
        _check_cluster(options)
        possible += [kind for kind in OF_CLUSTER if kind != "node_lost" or options.lose_node]
    kinds = possible if options.kinds is None else options.kinds.split(",")
    for kind in kinds:
        if kind == "node_lost" and options.cluster is not None and not options.lose_node:
            raise UserError("--kinds node_lost: say with --lose-node how a node's power is cut")
        one_of("--kinds", kind, tuple(possible))
    for kind, flag in (("node_lost", "lose_node"), ("preempted", "preempt_from")):
        if getattr(options, flag) is not None and kind not in kinds:
            raise UserError(f"--{flag.replace('_', '-')}: would be ignored: --kinds lacks {kind}")
    options.kinds = tuple(dict.fromkeys(kinds))


def _check_cluster(options: Namespace) -> None:
    from recipes.config.validate_launch import validate_launch

    cluster = options.cluster
    validate_launch(cluster)
    if cluster.launch.scheduler != "slurm":
        raise UserError("cluster.launch.scheduler=local: this machine is what is used without cluster=NAME")
    if cluster.launch.chain > 1:
        raise UserError(
            f"cluster.launch.chain={cluster.launch.chain}: one job, which requeues itself, is measured"
        )
    if options.processes is not None:
        raise UserError(f"--processes {options.processes}: would be ignored: the cluster says how many")
    if options.data is None:
        raise UserError("--data DIRECTORY is missing: one on a file system that all nodes share")
    options.processes = cluster.nodes * cluster.gpus_per_node


if __name__ == "__main__":
    run_tool(main)
