"""What the all-reduces say about the nodes; and the measurement itself, by real processes under gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

from recipes.config.world import World
from recipes.errors import UserError
from recipes.launch.check_bandwidth import judge
from recipes.launch.slow_nodes import Group, Measured
from recipes.parallel.all_reduce import bus_bandwidth, measure_all_reduce
from tests.support.paths import ROOT
from tests.support.pool import GlooPool
from tests.support.ports import free_port

# A group is as fast as its slowest node.
WITHIN = {"node0": 400.0, "node1": 410.0, "node2": 390.0}


class Nodes:
    """Nodes of known speeds."""

    def __init__(self, within: dict[str, float | None], between: dict[str, float | None]) -> None:
        self.names = dict(enumerate(within))
        self.speeds = {1: list(within.values()), 2: list(between.values())}

    def measure(self, groups: list[Group]) -> Measured:
        return {group: self._slowest([self.speeds[len(group)][node] for node in group]) for group in groups}

    def _slowest(self, speeds: list[float | None]) -> float | None:
        known = [speed for speed in speeds if speed is not None]
        return min(known) if len(known) == len(speeds) else None


def test_all_reach_the_floors() -> None:
    assert judge(Nodes(WITHIN, WITHIN), 8, 300.0, 300.0) == dict.fromkeys(WITHIN, "ok")


def test_a_slow_node_is_named_with_both_figures() -> None:
    answers = judge(Nodes(WITHIN | {"node1": 41.26}, WITHIN), 8, 300.0, None)
    assert answers == dict.fromkeys(WITHIN, "ok") | {
        "node1": "all-reduce within the node: 41.3 instead of 300 GB/s"
    }


def test_a_slow_link_is_its_nodes_fault() -> None:
    answers = judge(Nodes(WITHIN, WITHIN | {"node0": 180.0}), 8, 300.0, 300.0)
    assert answers["node0"] == "all-reduce with node1: 180 instead of 300 GB/s"
    assert answers["node1"] == answers["node2"] == "ok"


def test_a_node_that_is_slow_by_itself_is_not_measured_with_others() -> None:
    class Watched(Nodes):
        def measure(self, groups: list[Group]) -> Measured:
            assert not any(1 in group for group in groups if len(group) == 2)
            return super().measure(groups)

    answers = judge(Watched(WITHIN | {"node1": None}, WITHIN), 8, 300.0, 300.0)
    assert answers["node1"] == "all-reduce within the node: no end within 60 s instead of 300 GB/s"
    assert answers["node0"] == answers["node2"] == "ok"


def test_of_two_nodes_either_may_be_at_fault() -> None:
    two = dict.fromkeys(("node0", "node1"), 10.0)
    answers = judge(Nodes(two, two), 1, 300.0, 300.0)
    assert answers["node0"].startswith("all-reduce with node1: 10 instead of 300 GB/s; either may be")
    assert answers["node1"].startswith("all-reduce with node0: 10 instead of 300 GB/s; either may be")


@pytest.mark.parametrize(
    ("within", "between", "why"),
    [
        (10.0, 400.0, "node_all_reduce_gb_per_s=300: no node of 3 measured reaches it, the fastest: 10;"),
        (
            400.0,
            12.5,
            "pair_all_reduce_gb_per_s=300: no two nodes of 3 measured reaches it, the fastest: 12.5;",
        ),
        (400.0, None, "the fastest: no end within 60 s;"),
    ],
)
def test_where_none_reaches_the_floor_nobody_is_blamed(
    within: float, between: float | None, why: str
) -> None:
    nodes = Nodes(dict.fromkeys(WITHIN, within), dict.fromkeys(WITHIN, between))
    with pytest.raises(UserError, match="fabric's settings") as refused:
        judge(nodes, 8, 300.0, 300.0)
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_one_process_of_a_single_node_has_nothing_to_measure() -> None:
    assert judge(Nodes({"node0": 0.0}, {}), 1, 300.0, 300.0) == {"node0": "ok"}
    with pytest.raises(UserError, match="no node has all"):
        judge(Nodes({}, {}), 1, 300.0, 300.0)


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    # Two processes: each sends the message once. Eight: 7/4 of it.
    assert bus_bandwidth(10**9, 1.0, 2) == pytest.approx(1.0)
    assert bus_bandwidth(10**9, 0.5, 8) == pytest.approx(3.5)


def measured_in_groups(groups: list[list[int]]) -> float:
    """The speed of this process's group: one after the other and at the same time, in one store."""
    from recipes.parallel.rendezvous import open_store

    rank = int(os.environ["RANK"])
    store = open_store(World(rank), 240.0, hosts=rank == 0)
    (group,) = [each for each in groups if rank in each]
    ours, theirs = Pipe(duplex=False)
    measure_all_reduce(World(group.index(rank), size=len(group)), f"0/{group[0]}", 240.0, theirs)
    store.add("left", 1)
    while rank == 0 and store.add("left", 0) < sum(map(len, groups)):
        time.sleep(0.01)
    return float(ours.recv())


def test_groups_of_one_store_measure_at_the_same_time(gloo_pool: GlooPool) -> None:
    one, other, *rest = gloo_pool.run(4, measured_in_groups, [[0, 2], [1, 3]])
    assert one > 0 and other > 0 and rest == [one, other], "all processes of a group agree"


RUNS = "recipes.launch.check_bandwidth"


def run_four(tmp_path: Path, *flags: str) -> tuple[list[int], str, dict[str, str]]:
    """Exit codes, what rank 0 says, and the answers of two nodes with two processes each, here on one."""
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", RUNS, str(tmp_path / "answers"), *flags],
            env=common
            | {"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "SLURMD_NODENAME": f"node{rank // 2}"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(4)
    ]
    said = [process.communicate()[0] for process in processes]
    answers = {path.name: path.read_text() for path in (tmp_path / "answers").glob("*")}
    return [process.returncode for process in processes], said[0], answers


@pytest.mark.slow
def test_nodes_of_real_processes(tmp_path: Path) -> None:
    codes, said, answers = run_four(tmp_path, "--within", "1e-6", "--between", "1e-6")
    assert codes == [0] * 4, said
    assert answers == {"node0": "ok\n", "node1": "ok\n"}
    assert "all-reduce within a node: " in said and "GB/s in 2 measurements; at least 1e-06" in said
    assert "all-reduce between two nodes: " in said and "GB/s in 1 measurement; " in said


@pytest.mark.slow
def test_nodes_of_real_processes_below_the_floor(tmp_path: Path) -> None:
    codes, said, answers = run_four(tmp_path, "--within", "1e-6", "--between", "1e6")
    assert codes == [0] * 4, said
    assert set(answers) == {"node0", "node1"}
    assert answers["node0"].startswith("all-reduce with node1: ") and "of 1e+06 GB/s" in answers["node0"]


def test_refused_floors() -> None:
    def refused(*flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", RUNS, "answers", *flags], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        return done.stderr

    assert "give one of them" in refused()
    assert "--between=-3.0: must be positive" in refused("--between", "-3")
