"""Runs of the real trainer on a throwaway Slurm cluster; to be started inside of it, by cluster.sh.

``python -m tests.support.slurm_rehearsal DIRECTORY CASE...``; DIRECTORY/data.json has the settings of a run.
Prints a JSON object for each case.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.launch.preemption import preemption_of
from recipes.run_directory import read_metrics
from tests.support.paths import ROOT

LIMIT_S = 900.0
"""Only against hanging."""


class Lab:
    """The cluster, and a run on it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.data = json.loads((directory / "data.json").read_text(encoding="utf-8"))
        self.write_to(directory / "outputs", name)

    def write_to(self, outputs: Path, name: str) -> None:
        """Where the run will be."""
        self.run = outputs / name
        self.settings = [*self.data, f"name={name}", f"output_dir={outputs}"]

    def launch(self, *more: str) -> subprocess.CompletedProcess[str]:
        """tools.launch on two nodes with one process each."""
        cluster = ["cluster=shakti_512xh100", "cluster.nodes=2", "cluster.gpus_per_node=1"]
        launch = [
            "request_gpus=false",
            "cpus_per_task=1",
            f"venv={Path(sys.prefix)}",
            "env.GLOO_SOCKET_IFNAME=eth0",
            # The floors are those of H100s.
            "health.node_all_reduce_gb_per_s=null",
            "health.pair_all_reduce_gb_per_s=null",
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

    def job_started(self) -> float:
        """When it began to run, in seconds since 1970."""
        return time.mktime(time.strptime(job_field(self.job(), "StartTime"), "%Y-%m-%dT%H:%M:%S"))

    def task_logs(self) -> str:
        """What the processes of all starts have said."""
        logs = sorted((self.run / "logs/slurm").glob("*.node*.log"))
        return "".join(path.read_text(encoding="utf-8") for path in logs)

    def nodes_of_start(self, restart: int) -> list[str]:
        """Those that had tasks."""
        logs = (self.run / "logs/slurm").glob(f"*.{restart}.node*.log")
        return sorted(path.name.split(".")[2] for path in logs)

    def checkpoints(self) -> list[str]:
        """Whole ones, and those that were set aside."""
        return sorted(path.parent.name for path in (self.run / "checkpoints").glob("*/manifest.json"))

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


def set_time_limit(job: str, minutes: int) -> None:
    """As an administrator may."""
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], check=True)


def leave_free(disk: Path, size: int) -> None:
    """Fills all but ``size`` bytes with a file of its own, in place of the one before."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - size))


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


def time_limit(lab: Lab) -> dict[str, Any]:
    """The limit itself, made short once the run is under way, however long that takes."""
    # Steps that outlast Slurm, which looks at limits every 30 seconds.
    lab.launch(faults("slow:step=7,until=10,seconds=12,once=1"), "cluster.launch.time_limit=01:00:00")
    lab.wait_for_step(6)
    job = lab.job()
    # The five minutes' notice is then due at once; two are left to stop in.
    set_time_limit(job, minutes=int((time.time() - lab.job_started()) / 60) + 3)
    wait(lambda: int(job_field(job, "Restarts")) > 0 or job_field(job, "JobState") == "COMPLETED")
    set_time_limit(job, minutes=60)
    return lab.outcome(said=lab.job_log())


def hanging(lab: Lab) -> dict[str, Any]:
    """A rank stands still: the watchdog ends all, and the job is requeued."""
    lab.launch(faults("hang:rank=1,step=6,once=1"), f"trainer.guards.hang_timeout_s={HANG_TIMEOUT_S}")
    lab.wait_for_end()
    stacks = lab.run / "logs/hang_rank_1.txt"
    return lab.outcome(said=lab.job_log() + lab.task_logs(), stacks=stacks.read_text(encoding="utf-8"))


def damaged(lab: Lab) -> dict[str, Any]:
    """The newest checkpoint is no longer what was written when a process is killed."""
    lab.launch(faults("damaged_checkpoint:step=10,once=1; kill:step=10,once=1"))
    lab.wait_for_end()
    return lab.outcome(said=lab.task_logs(), checkpoints=lab.checkpoints())


def full_disk(lab: Lab) -> dict[str, Any]:
    """A small disk, and others write to it: first no checkpoint fits, then only once an old one has gone."""
    small = lab.directory / "slurm/small"
    lab.write_to(small, lab.run.name)
    # Time to fill the disk before the save of step 8.
    lab.launch(faults("slow:step=6,until=8,seconds=5,once=1"))
    lab.wait_for_step(5)
    first = lab.run / "checkpoints/step_00000004"
    size = sum(path.stat().st_size for path in first.iterdir())
    leave_free(small, size // 2)
    ended = lab.wait_for_end()
    full = {"ended": ended, "log": lab.task_logs(), "kept": lab.checkpoints()}
    leave_free(small, 3 * size // 2)
    lab.launch()
    lab.wait_for_end()
    return lab.outcome(full=full, said=lab.task_logs(), checkpoints=lab.checkpoints())


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


def cancelled_for_another(lab: Lab) -> dict[str, Any]:
    """The same, where preempted jobs are not requeued by Slurm but cancelled, at once or after a grace."""
    restarts, notices = [], []
    for grace in (0, 60):
        set_preemption(f"PreemptMode=CANCEL GraceTime={grace}")
        found = preemption_of(None)
        notices.append(None if found is None else [found.partition, found.grace, found.kill_wait])
        lab.write_to(lab.directory / f"grace_{grace}", lab.run.name)
        restarts.append(preempted(lab)["restarts"])
    set_preemption("PreemptMode=REQUEUE GraceTime=0")
    return lab.outcome(of_each=restarts, said=lab.job_log(), notices=notices)


def set_preemption(how: str) -> None:
    """Of the partition that runs are in."""
    subprocess.run(["scontrol", "update", "PartitionName=main", *how.split()], check=True)


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
        logs=lab.nodes_of_start(0),
        said=lab.job_log(),
    )


def slow_link_and_a_spare(lab: Lab) -> dict[str, Any]:
    """All that goes to a node goes at 1 MB/s: the spare takes its place."""
    limit = [
        "tc",
        "qdisc",
        "add",
        "dev",
        "v0",
        "root",
        "tbf",
        "rate",
        "8mbit",
        "burst",
        "32kb",
        "latency",
        "1s",
    ]
    if subprocess.run(limit, capture_output=True).returncode:
        return {"skipped": "this kernel limits no links"}
    try:
        lab.launch("cluster.launch.health.pair_all_reduce_gb_per_s=0.01", "cluster.launch.spare_nodes=1")
        lab.wait_for_end()
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "v0", "root"], check=True)
    return lab.outcome(logs=lab.nodes_of_start(0), said=lab.job_log())


BAD_NODE = "cluster.launch.health.command=test $(uname -n) != node0"
HANG_TIMEOUT_S = 25


def faults(text: str) -> str:
    """As a setting of the launch."""
    return f"cluster.launch.env.RECIPES_FAULTS={text}"


SLOW = faults("slow:step=7,until=11,seconds=4,once=1")
"""Time to disturb the run after its sixth step, also where a command takes long."""
CASES = {
    each.__name__: each
    for each in (
        *(undisturbed, signalled, time_limit, preempted, cancelled_for_another, node_lost, stopped),
        *(hanging, damaged, full_disk),
        *(unfit_node, unfit_node_and_a_spare, slow_link_and_a_spare),
    )
}


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for case in sys.argv[2:]:
        print(json.dumps({case: CASES[case](Lab(here, case))}), flush=True)
