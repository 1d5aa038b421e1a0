"""Plan a run on a cluster before it is paid for: memory, communication, step time, days, energy."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.arguments import Arguments
from recipes.cli import run_tool
from recipes.console import note, quiet_libraries
from recipes.counts import count
from recipes.errors import UserError

if TYPE_CHECKING:
    from recipes.config.cluster_schema import ClusterConfig
    from recipes.config.schema import PretrainConfig

EXAMPLES = """\
examples:
  python -m tools.plan experiment=param1_2p9b cluster=shakti_512xh100
  python -m tools.plan experiment=param1_2p9b cluster=shakti_512xh100 cluster.nodes=32 --json

  # every layout that fits, the fastest first, and a page with a plot
  python -m tools.plan experiment=param1_2p9b cluster=shakti_512xh100 --search --out layouts.html

  # goodput and the best checkpoint interval if something fails every 6 hours
  python -m tools.plan experiment=param1_2p9b cluster=shakti_512xh100 --simulate-failures 6h

  # time a few steps on this machine first
  python -m tools.plan experiment=param1_2p9b cluster=one_h200 trainer.global_batch_size=16 --measure

Arguments are those of recipes.pretrain, and cluster=NAME with cluster.KEY=VALUE. Processes are as many as the
cluster has GPUs. docs/plan-a-run.md says how the figures are made and how far they are from measured ones.
"""


def main() -> None:
    """Composes the run and the cluster, and prints the plan or the layouts."""
    parser = Arguments("tools.plan", __doc__, EXAMPLES)
    parser.add_argument("overrides", nargs="+", help="experiment=NAME cluster=NAME and settings of both")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--search", action="store_true", help="compare all layouts that fit")
    parser.add_argument("--top", type=count, default=20, metavar="N", help="--search: layouts shown (20)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="--search: write a page with a plot (HTML)")
    parser.add_argument(
        "--simulate-failures", metavar="MTBF", help="time between failures of the run: 6h, 2d"
    )
    parser.add_argument(
        "--save-time", metavar="TIME", help="that a save holds training up (default: by its size)"
    )
    parser.add_argument(
        "--recovery-time", metavar="TIME", help="from a failure to the next step (default: 5m)"
    )
    parser.add_argument("--measure", action="store_true", help="first time some steps on this machine")
    options = parser.parse_intermixed_args()
    _check(options)
    from recipes.config.described_run import described
    from recipes.data.tokenizer.vocabulary import with_vocab_size

    config, cluster = described(options.overrides)
    config = with_vocab_size(config)
    if options.measure:
        measured = _measured(config, cluster)
        if measured is None:
            return
        cluster = measured
    if options.search:
        _search(config, cluster, options)
    else:
        _plan(config, cluster, options)


def _check(options: Namespace) -> None:
    """Refuses options that would be ignored."""
    if options.out is not None and not options.search:
        raise UserError(f"--out={options.out}: would be ignored: it is the page of --search")
    if options.simulate_failures is None:
        for flag, value in (("--save-time", options.save_time), ("--recovery-time", options.recovery_time)):
            if value is not None:
                raise UserError(f"{flag}={value}: would be ignored: add --simulate-failures MTBF")
    elif options.search:
        raise UserError("--search: does not go with --simulate-failures, which is about one layout")


def _measured(config: PretrainConfig, cluster: ClusterConfig) -> ClusterConfig | None:
    """The cluster as this machine's GPU says it is; what was measured goes to standard error.

    None: a cluster without known GPUs, for which nothing is planned.
    """
    from recipes.config.cluster_schema import UNKNOWN
    from recipes.plan.machine import free_bytes, this_machines_device
    from recipes.plan.measured import STEPS, calibrated, measurable, measured_of, measured_text
    from recipes.plan.run_plan import plan_run

    if cluster.hardware.gpu != UNKNOWN:
        plan_run(config, cluster)  # What is impossible is refused before anything is measured.
    device = this_machines_device()
    small = measurable(config, device, free_bytes(device, 0))
    quiet_libraries()
    from recipes.training.bare_step import time_steps

    found = measured_of(small, device, time_steps(small, STEPS))
    fitted = calibrated(found, cluster)
    note(measured_text(found, config, fitted))
    return None if cluster.hardware.gpu == UNKNOWN else fitted or cluster


def _plan(config: PretrainConfig, cluster: ClusterConfig, options: Namespace) -> None:
    from recipes.plan.failure_rows import duration, failure_data, failure_text, failures_of
    from recipes.plan.plan_rows import plan_data, plan_text
    from recipes.plan.run_plan import plan_run

    plan = plan_run(config, cluster)
    data, text = plan_data(plan), plan_text(plan)
    if options.simulate_failures is not None:
        times = [
            None if each is None else duration(each) for each in (options.save_time, options.recovery_time)
        ]
        failures = failures_of(plan, duration(options.simulate_failures), *times)
        data["failures"] = failure_data(plan, failures)
        text += "\n\n" + failure_text(plan, data["failures"])
    print(json.dumps(data, indent=2) if options.json else text)


def _search(config: PretrainConfig, cluster: ClusterConfig, options: Namespace) -> None:
    from recipes.plan.layouts_table import found_text, write_layouts
    from recipes.plan.plan_rows import plan_data
    from recipes.plan.search import search

    found = search(config, cluster)
    if options.out is not None:
        command = f"python -m tools.plan {' '.join(options.overrides)}"
        note(str(write_layouts(options.out, found, options.top, command)))
    if options.json:
        layouts = [plan_data(plan) for plan in found.plans[: options.top]]
        print(
            json.dumps({"layouts": layouts, "too_large": found.too_large, "refused": found.refused}, indent=2)
        )
    else:
        print(found_text(found, options.top))


if __name__ == "__main__":
    run_tool(main)
