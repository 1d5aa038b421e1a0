"""Runs of the real trainer on a throwaway Slurm cluster; to be started inside of it, by cluster.sh.

``python -m tests.support.slurm_rehearsal DIRECTORY CASE...``; DIRECTORY/data.json has the settings of a run.
Prints a JSON object for each case.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.run_directory import read_metrics
from tests.support.paths import ROOT

LIMIT_S = 900.0
"""Only against hanging."""


class Lab:
    """The cluster, and a run on it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.run = directory / "outputs" / name
        settings = json.loads((directory / "data.json").read_text(encoding="utf-8"))
        self.settings = [*settings, f"name={name}", f"output_dir={directory / 'outputs'}"]

    def launch(self, *more: str) -> subprocess.CompletedProcess[str]:
        """tools.launch on two nodes with one process each."""
        cluster = ["cluster=shakti_512xh100", "cluster.nodes=2", "cluster.gpus_per_node=1"]
        launch = [
            "request_gpus=false",
            "cpus_per_task=1",
            f"venv={Path(sys.prefix)}",
            "env.GLOO_SOCKET_IFNAME=eth0",
        ]
        cluster += [f"cluster.launch.{each}" for each in launch]
        return self.tool(*self.settings, *cluster, *more)

    def tool(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """tools.launch itself."""
        return subprocess.run(
            [sys.executable, "-m", "tools.launch", *arguments], cwd=ROOT, capture_output=True, text=True
        )

    def job(self) -> str:
        """The newest job of the run."""
        lines = (self.run / "logs/slurm/launched.jsonl").read_text(encoding="utf-8").splitlines()
        return str(json.loads(lines[-1])["job"])

    def job_log(self) -> str:
        """What the job script has said."""
        return (self.run / f"logs/slurm/{self.job()}.out").read_text(encoding="utf-8")

    def wait_for_step(self, step: int) -> None:
        """Until it is recorded."""
        wait(lambda: any(record["step"] >= step for record in self.records() if "loss" in record))

    def records(self) -> list[dict[str, Any]]:
        return read_metrics(self.run / "metrics.jsonl")

    def wait_for_end(self) -> str:
        """The job's last state."""
        wait(
            lambda: job_field(self.job(), "JobState") not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
        )
        return job_field(self.job(), "JobState")

    def outcome(self, **more: Any) -> dict[str, Any]:
        """What a test looks at."""
        state = self.wait_for_end()
        losses = [[record["step"], record["loss"]] for record in self.records() if "loss" in record]
        restarts = int(job_field(self.job(), "Restarts"))
        return {"state": state, "restarts": restarts, "losses": losses, **more}


def job_field(job: str, field: str) -> str:
    """What scontrol shows."""
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True
    ).stdout
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return fields.get(field, "")


def wait(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < LIMIT_S, "nothing happens any more"
        time.sleep(0.2)


def undisturbed(lab: Lab) -> dict[str, Any]:
    """A whole run; meanwhile a second submission, status, and logs."""
    first = lab.launch()
    second = lab.launch()
    lab.wait_for_step(1)
    status = lab.tool("status", str(lab.run))
    logs = lab.tool("logs", str(lab.run), "--lines", "3")
    return lab.outcome(
        launched=[first.returncode, first.stdout + first.stderr],
        again=[second.returncode, second.stderr],
        status=status.stdout + status.stderr,
        logs=[logs.returncode, logs.stdout + logs.stderr],
        over=lab.tool("status", str(lab.run)).stdout if lab.wait_for_end() else "",
    )


def signalled(lab: Lab) -> dict[str, Any]:
    """What Slurm does before the time limit: the job saves, requeues itself and goes on."""
    lab.launch(SLOW)
    lab.wait_for_step(6)
    subprocess.run(["scancel", "--batch", "--signal=USR1", lab.job()], check=True)
    return lab.outcome()


def preempted(lab: Lab) -> dict[str, Any]:
    """A job of a partition with precedence takes all nodes."""
    lab.launch(SLOW)
    lab.wait_for_step(6)
    urgent = [
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=3",
        "--ntasks-per-node=2",
        "--output=/dev/null",
    ]
    subprocess.run([*urgent, "--wrap", "sleep 1"], check=True, capture_output=True)
    return lab.outcome()


def node_lost(lab: Lab) -> dict[str, Any]:
    """A node's power fails; the third one takes its place."""
    lab.launch(SLOW)
    lab.wait_for_step(6)
    job = lab.job()
    nodes = subprocess.check_output(
        ["scontrol", "show", "hostnames", job_field(job, "NodeList")], text=True
    ).split()
    os.kill(int((lab.directory / "slurm/pids" / nodes[-1]).read_text()), signal.SIGKILL)
    wait(lambda: int(job_field(job, "Restarts")) > 0)
    lab.wait_for_end()
    return lab.outcome(lost=nodes[-1], nodes=job_field(job, "NodeList"))


def stopped(lab: Lab) -> dict[str, Any]:
    """tools.launch stop: saved, not requeued; launched again, it goes on."""
    lab.launch(SLOW)
    lab.wait_for_step(6)
    asked = lab.tool("stop", str(lab.run))
    lab.wait_for_end()
    between = [record["step"] for record in lab.records() if "loss" in record][-1]
    lab.launch()
    return lab.outcome(asked=asked.stdout + asked.stderr, stopped_at=between)


def unfit_node(lab: Lab) -> dict[str, Any]:
    """A node fails the health check: the job is requeued without it."""
    lab.launch(BAD_NODE)
    lab.wait_for_end()
    return lab.outcome(nodes=job_field(lab.job(), "NodeList"), said=lab.job_log())


def unfit_node_and_a_spare(lab: Lab) -> dict[str, Any]:
    """The same, and the job has a node more than it needs."""
    lab.launch(BAD_NODE, "cluster.launch.spare_nodes=1")
    lab.wait_for_end()
    return lab.outcome(
        logs=sorted(path.name.split(".")[2] for path in (lab.run / "logs/slurm").glob("*.0.node*.log")),
        said=lab.job_log(),
    )


BAD_NODE = "cluster.launch.health.command=test $(uname -n) != node0"
SLOW = "cluster.launch.env.RECIPES_FAULTS=slow:step=1,until=9,seconds=0.5"
"""Time to disturb the run."""
CASES = {
    each.__name__: each
    for each in (
        *(undisturbed, signalled, preempted, node_lost, stopped),
        *(unfit_node, unfit_node_and_a_spare),
    )
}


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for case in sys.argv[2:]:
        print(json.dumps({case: CASES[case](Lab(here, case))}), flush=True)
