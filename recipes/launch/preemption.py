"""Whether a job that is preempted on this cluster has time to save, by what Slurm says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipes.errors import UserError
from recipes.launch.command import Command
from recipes.plan.stop_notice import AT_LEAST

ANSWERS_WITHIN_S = 10
ENDS_JOBS = ("CANCEL", "REQUEUE")
"""Preemption that does; SUSPEND and GANG do not."""


@dataclass(frozen=True)
class Preemption:
    """Of the jobs of a partition, in seconds."""

    partition: str
    grace: int
    """GraceTime: between TERM and the end."""
    kill_wait: int
    """KillWait: then between another TERM and KILL."""

    def too_short(self, save_s: float) -> str:
        """What to warn of, if AT_LEAST saves of so many seconds do not end in time; else empty."""
        if AT_LEAST * save_s <= self.grace + self.kill_wait:
            return ""
        return (
            f"partition {self.partition}: a preempted job is killed after {self.grace + self.kill_wait} s "
            f"(GraceTime={self.grace}, KillWait={self.kill_wait}), {AT_LEAST} saves of {save_s:,.0f} s may "
            "have to be waited for: it may lose the steps since its last checkpoint; choose another "
            "partition, or lower trainer.checkpoint.every_minutes"
        )


def preemption_of(partition: str | None) -> Preemption | None:
    """Of the partition, None meaning the cluster's default; None where jobs are not preempted.

    Or where nobody says so: with qualities of service (preempt/qos), GraceTime is theirs, and not looked up.
    """
    config = _answer("scontrol", "show", "config")
    partitions = _answer("scontrol", "--oneliner", "show", "partition")
    nodes = _answer("sinfo", "--noheader", "--Node", "--format=%R %N")
    return read_preemption(config, partitions, nodes, partition)


def read_preemption(config: str, partitions: str, nodes: str, name: str | None) -> Preemption | None:
    """The same from what the commands print; ``nodes``: lines of partition and node."""
    kill_wait = re.search(r"^KillWait\s*=\s*(\d+)", config, re.MULTILINE)
    if kill_wait is None or not re.search(r"^PreemptType\s*=\s*preempt/partition_prio", config, re.MULTILINE):
        return None
    of_name = {each["PartitionName"]: each for each in map(_fields, partitions.splitlines()) if each}
    own = next((each for each in of_name.values() if _is_meant(each, name)), None)
    if own is None or own.get("PreemptMode", "").split(",")[-1] not in ENDS_JOBS:
        return None
    members = [line.split() for line in nodes.splitlines()]
    its_nodes = {node for partition, node in members if partition == own["PartitionName"]}
    rivals = {partition for partition, node in members if node in its_nodes}
    tier = int(own["PriorityTier"])
    if not any(int(of_name[each]["PriorityTier"]) > tier for each in rivals if each in of_name):
        return None
    return Preemption(own["PartitionName"], int(own["GraceTime"]), int(kill_wait[1]))


def _is_meant(fields: dict[str, str], name: str | None) -> bool:
    return fields["Default"] == "YES" if name is None else fields["PartitionName"] == name


def _fields(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _answer(*words: str) -> str:
    """What it prints; nothing where it is not there, fails, or hangs: only a warning depends on it."""
    try:
        return Command(words, {}).output(ANSWERS_WITHIN_S)
    except UserError:
        return ""
