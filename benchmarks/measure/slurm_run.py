"""A run as a job of Slurm: launched by tools.launch, followed by what it writes, struck from outside."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure.fault_costs import HEAD, Cost, Follower, Line, Start, costs, row
from benchmarks.measure.lives import ROOT, Life
from benchmarks.measure.planned_faults import Planned
from recipes.cli import DONE, STOPPED_BY_GUARD, USER_ERROR
from recipes.config.cluster_schema import ClusterConfig
from recipes.console import say
from recipes.errors import UserError
from recipes.launch.command import Command
from recipes.launch.launched import STATE, Queued, jobs_of, queued

ASK_EVERY_S = 1.0
"""Slurm's controller has others to answer, too."""
SILENT_S = 600.0
"""So long may it not answer."""
GONE_AFTER = 3
"""Answers without the job: while it is requeued, one may lack it."""
STARTED = re.compile(r"\[[^]]*\] job \d+, restart \d+: starting ")
ENDED = re.compile(r"\[[^]]*\] job \d+, restart \d+: srun ended, exit code (\d+)")


class Job(Life):
    """A run that tools.launch has submitted; there when its job runs."""

    def __init__(self, settings: Sequence[str], run: Path) -> None:
        """Submits it, and waits for its nodes as long as it takes.

        Raises:
            UserError: tools.launch or Slurm refuses it.
        """
        self.run = run
        words = [sys.executable, "-m", "tools.launch", *settings]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"tools.launch: {done.stderr.removeprefix('error: ').strip()}")
        self.number = jobs_of(run)[-1].job
        self.log = run / STATE / f"{self.number}.out"
        self._answer: Queued | None = None
        self._asked, self._answered, self._without = 0.0, time.monotonic(), 0
        waited = 0
        while (row := self.row()) is not None and row.state != "RUNNING":
            waited += 1
            if waited == 20:
                say(f"job    {self.number} waits: {row.where}")
            time.sleep(ASK_EVERY_S)

    def row(self) -> Queued | None:
        """As squeue shows it; None: it is over.

        Raises:
            UserError: Slurm has not answered for a long time.
        """
        if time.monotonic() - self._asked < ASK_EVERY_S or self._without >= GONE_AFTER:
            return self._answer if self._without < GONE_AFTER else None
        self._asked = time.monotonic()
        try:
            rows = [each for each in queued(self.run) if each.job == self.number]
        except UserError:
            if time.monotonic() - self._answered > SILENT_S:
                raise
            return self._answer
        self._answered = self._asked
        self._without = 0 if rows else self._without + 1
        self._answer = rows[0] if rows else self._answer
        return self._answer if self._without < GONE_AFTER else None

    def codes(self) -> list[int | None]:
        """The job script's, as the one that counts."""
        if self.row() is not None:
            return [None]
        ended = ENDED.findall(self.output())
        return [int(ended[-1]) if ended else 1]

    def kill(self) -> None:
        if self.row() is not None:
            Command(["scancel", self.number], {}).output()
            while self.row() is not None:
                time.sleep(ASK_EVERY_S)

    def output(self) -> str:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def nodes(self) -> list[str]:
        """Those that it has now."""
        shown = self.row()
        if shown is None or shown.state != "RUNNING":
            return []
        return Command(["scontrol", "show", "hostnames", shown.where], {}).output().split()


@dataclass(frozen=True)
class Strikes:
    """How a job is hit from outside.

    Attributes:
        gpus_per_node: a rank's node follows from it.
        preempt_from: a partition whose jobs take precedence; without it, ``scontrol requeue`` does
            to the job what preemption does.
        lose_node: a command that cuts a node's power, whose name is in NODE.
    """

    gpus_per_node: int
    preempt_from: str | None
    lose_node: str | None

    def strike(self, fault: Planned, job: Job) -> None:
        """Raises:
        UserError: it cannot be done.
        """
        nodes = job.nodes()
        if fault.kind == "preempted" and self.preempt_from is None:
            Command(["scontrol", "requeue", job.number], {}).output()
        elif fault.kind == "preempted":
            taken = [f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", "--exclusive"]
            options = [f"--partition={self.preempt_from}", *taken, "--output=/dev/null"]
            Command(["sbatch", *options, "--wrap", "sleep 1"], {}).output()
        elif nodes:
            node = nodes[fault.rank // self.gpus_per_node % len(nodes)]
            Command(["bash", "-c", str(self.lose_node)], {"NODE": node}).output()


def unfit_command(planned: Sequence[Planned], run: Path, own: str | None) -> str | None:
    """A health check that one node does not pass after each fault of that kind: the first that is asked, as
    a link to its name remembers.

    Args:
        own: that of the cluster.
    """
    checks = [] if own is None else [f"( {own} )"]
    for fault in planned:
        if fault.kind == "unfit_node":
            mark, unfit = (
                shlex.quote(str(run / "logs" / name)) for name in (fault.mark, f"unfit_{fault.step}")
            )
            node = '"$SLURMD_NODENAME"'
            named = f'ln -s {node} {unfit} 2>/dev/null; test "$(readlink {unfit})" != {node}'
            checks.append(f"( test ! -e {mark} || {{ {named}; }} )")
    return " && ".join(checks) or None


class Watch:
    """The starts of one job's processes, from what its script and the run itself write."""

    def __init__(self, job: Job, follower: Follower, starts: list[Start]) -> None:
        self.job, self.follower, self.starts = job, follower, starts
        self._read = 0

    def look(self) -> None:
        """Adds what is new to ``starts``."""
        known = len(self.starts)
        text = self.job.output()
        whole = text[: text.rfind("\n") + 1]
        for said in whole[self._read :].splitlines():
            if STARTED.match(said):
                self._over()
                self.starts.append(Start(time.time()))
            elif (ended := ENDED.match(said)) and self.starts:
                self.starts[-1].ended, self.starts[-1].code = time.time(), int(ended[1])
        self._read = len(whole)
        row = self.job.row()
        if row is None or row.state != "RUNNING":
            self._over()
        if self.starts:
            self._add(self.follower.new_lines(), known)

    def _over(self) -> None:
        """Nobody was left to tell of the end of a lost node's job."""
        if self.starts and self.starts[-1].ended is None:
            self.starts[-1].ended = time.time()

    def _add(self, lines: list[Line], known: int) -> None:
        """To the newest start; if that is new, what comes before its first record belongs to the one
        before."""
        place = len(self.starts) - 1
        begun = next((n for n, line in enumerate(lines) if line.record.get("event") == "resumed"), 0)
        if place >= known > 0 and begun:
            self.starts[known - 1].lines += lines[:begun]
            lines = lines[begun:]
        self.starts[place].lines += lines


def faulty_job(
    launch: Callable[[], Job], run: Path, planned: Sequence[Planned], every: int, strikes: Strikes
) -> tuple[list[Start], list[Cost]]:
    """Trains to the end, launched again when its job has ended before; prints what each fault costs once it
    is over.

    Raises:
        UserError: a job gave up, or ended by a mistake that nobody planned.
    """
    print(HEAD, flush=True)
    follower, starts, told = Follower(run / "metrics.jsonl"), list[Start](), list[Cost]()
    waiting = [fault for fault in planned if fault.kind in ("preempted", "node_lost")]
    full = any(fault.kind == "full_disk" for fault in planned)
    code: int | None = None
    while code != DONE:
        job = launch()
        watch = Watch(job, follower, starts)
        try:
            over = False
            while not over:
                over = (code := job.poll()) is not None
                watch.look()
                for fault in [each for each in waiting if (run / "logs" / each.mark).exists()]:
                    waiting.remove(fault)
                    strikes.strike(fault, job)
                found = costs(planned, starts, run, every)
                for cost in found[len(told) :]:
                    print(row(cost), flush=True)
                told = found
                time.sleep(0.1)
        finally:
            job.kill()
        if code != DONE and not (full and code in (USER_ERROR, STOPPED_BY_GUARD)):
            raise UserError(f"job {job.number} ended with {code}: {job.output()[-2000:]}")
    return starts, told


def launch_settings(
    cluster: ClusterConfig, planned: Sequence[Planned], run: Path, faults: str, variable: str
) -> list[str]:
    """What is added to the cluster's own settings."""
    added = [f"cluster.launch.env.{variable}={faults}"]
    health = unfit_command(planned, run, cluster.launch.health.command)
    return added if health is None else [*added, f"cluster.launch.health.command={health}"]
