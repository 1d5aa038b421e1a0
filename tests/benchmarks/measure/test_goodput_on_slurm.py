"""Faults of a cluster, in a run that tools.launch hands to a real Slurm of four virtual nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import goodput
from benchmarks.measure.planned_faults import OF_CLUSTER, Planned, allowed, schedule
from benchmarks.measure.slurm_run import unfit_command
from recipes.errors import UserError
from recipes.training.faults import VARIABLE, parse_faults
from tests.benchmarks.measure.test_goodput import TIMELINE, faults_text
from tests.support.slurm_cluster import on_throwaway_slurm


@pytest.mark.slow
@pytest.mark.timeout(2400)  # On a machine that may be busy.
def test_a_cluster_s_faults(tmp_path: Path) -> None:
    figures = tmp_path / "figures.jsonl"
    of_cluster = [
        "cluster=cpu_nodes",
        "cluster.nodes=2",
        "cluster.launch.cpus_per_task=1",
        f"cluster.launch.venv={sys.prefix}",
        "cluster.launch.env.GLOO_SOCKET_IFNAME=eth0",
    ]
    done = on_throwaway_slurm(
        4,
        tmp_path / "slurm",
        *(sys.executable, "-m", "benchmarks.goodput", "--data", str(tmp_path / "data")),
        # How long it takes is the machine's matter.
        *("--kinds", ",".join(OF_CLUSTER), "--aim", "1e9", "--json", str(figures)),
        *("--preempt-from", "urgent", "--lose-node", f"kill -9 $(cat {tmp_path}/slurm/pids/$NODE)"),
        *of_cluster,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "losses equal bit for bit" in done.stdout
    rows = [json.loads(line) for line in figures.read_text(encoding="utf-8").splitlines()]
    costs = {row["kind"]: row for row in rows if row["who"] == "fault"}
    assert set(costs) == set(OF_CLUSTER)
    assert all(cost["recovery_s"] > cost["noticed_s"] > 0 for cost in costs.values())
    (whole,) = (row for row in rows if row["who"] == "goodput")
    assert whole["starts"] >= 1 + len(OF_CLUSTER) and 0 < whole["goodput"] < 1


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("--lose-node x", "--lose-node: would be ignored: name a cluster=NAME"),
        ("--kinds preempted", "--kinds=preempted: choose one of kill, "),
        ("cluster=cpu_nodes", "--data DIRECTORY is missing: one on a file system that all nodes share"),
        ("cluster=local --data d", "cluster.launch.scheduler=local: "),
        ("cluster=cpu_nodes --data d --processes 2", "--processes 2: would be ignored"),
        ("cluster=cpu_nodes --data d cluster.launch.chain=3", "cluster.launch.chain=3: one job"),
        ("cluster=cpu_nodes --data d --kinds node_lost", "--kinds node_lost: say with --lose-node"),
        ("cluster=cpu_nodes --data d --kinds kill --preempt-from p", "--preempt-from: would be ignored"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    given: str, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["goodput", *given.split()])
    with pytest.raises(UserError) as told:
        goodput.main()
    assert str(told.value).startswith(refused)


def test_the_schedule_of_a_cluster_s_faults() -> None:
    planned, _ = schedule(6, None, 5, 1, 2, OF_CLUSTER)
    assert sorted(fault.kind for fault in planned) == sorted(OF_CLUSTER * 2)
    faults = parse_faults({VARIABLE: faults_text(planned, TIMELINE, OF_CLUSTER)})
    # What comes from outside waits for a mark, which a slow step makes.
    assert [fault.mark for fault in faults] == [fault.mark for fault in planned]
    assert {fault.kind for fault in faults} == {"slow", "kill"} and all(fault.once for fault in faults)
    may = {kind: allowed(Planned(kind, 33, 0), 5) for kind in OF_CLUSTER}
    assert may == {"preempted": 5, "unfit_node": 2, "node_lost": 5}


def test_one_node_is_unfit_after_its_fault(tmp_path: Path) -> None:
    """Of all that ask, the first; and those that are asked later, with another one's name, are fit."""
    (tmp_path / "logs").mkdir()
    fault = Planned("unfit_node", 7, 1)
    command = unfit_command([Planned("kill", 3, 0), fault], tmp_path, None)
    assert command is not None

    def fit(node: str, check: str = command) -> bool:
        return subprocess.run(["bash", "-c", check], env={"SLURMD_NODENAME": node}).returncode == 0

    assert fit("a") and fit("b")
    (tmp_path / "logs" / fault.mark).touch()
    assert [fit(node) for node in ("b", "a", "b", "c")] == [False, True, False, True]
    with_own = unfit_command([fault], tmp_path, "test $SLURMD_NODENAME != c")
    assert with_own is not None and [fit(node, with_own) for node in "abc"] == [True, False, False]
    assert unfit_command([Planned("kill", 3, 0)], tmp_path, None) is None
