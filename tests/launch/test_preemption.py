"""The notice that preempted jobs get, from what Slurm 22.05 printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipes.launch import preemption
from recipes.launch.preemption import Preemption, preemption_of, read_preemption

CONFIG = """\
KillWait                = 5 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PreemptExemptTime       = 00:00:00
"""
PARTITION = (
    "PartitionName={name} AllowGroups=ALL Default={default} QoS=N/A GraceTime={grace} Hidden=NO "
    "Nodes=node[0-1] PriorityJobFactor=1 PriorityTier={tier} RootOnly=NO OverSubscribe=NO "
    "PreemptMode={mode} State=UP\n"
)
NODES = "main node0\nmain node1\nurgent node0\nurgent node1\nother node7\n"


def partitions(grace: int = 0, mode: str = "REQUEUE", tier: int = 1, urgent: int = 10) -> str:
    lines = [
        ("main", "YES", grace, tier, mode),
        ("urgent", "NO", 0, urgent, "OFF"),
        ("other", "NO", 0, 99, "OFF"),
    ]
    keys = ("name", "default", "grace", "tier", "mode")
    return "".join(PARTITION.format(**dict(zip(keys, line, strict=True))) for line in lines)


@pytest.mark.parametrize("partition", [None, "main"])
@pytest.mark.parametrize("mode", ["REQUEUE", "CANCEL", "GANG,REQUEUE"])
def test_jobs_of_a_lower_tier_have_both_times(partition: str | None, mode: str) -> None:
    found = read_preemption(CONFIG, partitions(grace=20, mode=mode), NODES, partition)
    assert found == Preemption("main", grace=20, kill_wait=5)


@pytest.mark.parametrize(
    ("config", "shown", "nodes", "partition"),
    [
        (CONFIG.replace("preempt/partition_prio", "preempt/none"), partitions(), NODES, None),
        (CONFIG.replace("preempt/partition_prio", "preempt/qos"), partitions(), NODES, None),
        (CONFIG, partitions(mode="OFF"), NODES, None),
        (CONFIG, partitions(mode="GANG,SUSPEND"), NODES, None),
        (CONFIG, partitions(), NODES, "urgent"),
        (CONFIG, partitions(), NODES, "unknown"),
        (CONFIG, partitions(tier=10), NODES, None),
        (CONFIG, partitions(), NODES.replace("urgent node0\nurgent node1\n", ""), None),
        ("", "", "", None),
    ],
)
def test_where_none_is_preempted_or_nobody_says_so(
    config: str, shown: str, nodes: str, partition: str | None
) -> None:
    """Of the higher tiers, only those that share nodes count."""
    assert read_preemption(config, shown, nodes, partition) is None


def test_saves_must_end_in_both_times() -> None:
    assert Preemption("main", 20, 30).too_short(25) == ""
    text = Preemption("main", 0, 30).too_short(25)
    assert text.startswith(
        "partition main: a preempted job is killed after 30 s (GraceTime=0, KillWait=30), 2 saves"
    )


def test_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert preemption_of(None) is None


def test_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch goes on without the warning."""
    for name in ("scontrol", "sinfo"):
        (tmp_path / name).write_text(f"#!/bin/sh\nexec cat {tmp_path / 'never'}\n")
        (tmp_path / name).chmod(0o700)
    os.mkfifo(tmp_path / "never")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(preemption, "ANSWERS_WITHIN_S", 0.2)
    assert preemption_of(None) is None
