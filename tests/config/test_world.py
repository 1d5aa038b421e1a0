"""The world is what a launcher has really started, not what an allocation could hold."""

from __future__ import annotations

import pytest

from recipes.config.world import World, first_node, launched_world

JOB = {
    "SLURM_JOB_ID": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
}
SHELL = JOB | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_TASKS_PER_NODE": "4"}
STEP = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "12",
    "SLURM_STEP_NUM_TASKS": "12",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1",
}
TORCHRUN = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


def step_of(tasks: int, number: str) -> dict[str, str]:
    """A step on one node, started from a shell in the allocation."""
    count = str(tasks)
    return SHELL | {
        "SLURM_STEP_ID": number,
        "SLURM_STEP_NUM_TASKS": count,
        "SLURM_STEP_TASKS_PER_NODE": count,
    }


@pytest.mark.parametrize(
    ("variables", "world"),
    [
        ({}, World()),
        (TORCHRUN, World(3, 1, 4, 2)),
        (STEP | TORCHRUN, World(3, 1, 4, 2)),
        # Shells in an allocation: salloc with and without use_interactive_step, srun --pty, a batch script.
        (SHELL | {"SLURM_STEP_ID": "4294967290"}, World()),
        (SHELL | {"SLURM_STEP_ID": "4294967291"}, World()),
        (SHELL | {"SLURM_STEP_ID": "0"}, World()),
        (JOB, World()),
        # srun: four tasks on one node, twelve on four uneven ones, and an old Slurm with fewer variables.
        (step_of(4, "0"), World(0, 0, 4, 4)),
        (STEP, World(9, 1, 12, 3)),
        (JOB | {"SLURM_STEP_ID": "0", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "2"}, World(2, 0, 4, 2)),
        # A step of fewer tasks than the job has.
        (step_of(2, "3"), World(0, 0, 2, 2)),
    ],
)
def test_launched_world(variables: dict[str, str], world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*STEP, *SHELL, *TORCHRUN, "SLURM_NTASKS_PER_NODE"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched_world() == world


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[0-1]", "node0"),
        ("node[03-05,9],other", "node03"),
        ("gpu7,node[1-2]", "gpu7"),
        ("rack[1-2]node[4,6]", "rack1node4"),
        ("a-1.example.org,a-2.example.org", "a-1.example.org"),
    ],
)
def test_rank_0_of_a_step_is_on_its_first_node(
    nodes: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every process must know that srun has started without a job script."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in (STEP | {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_NODES": "2"}).items():
        monkeypatch.setenv(name, value)
    assert first_node() == first
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "1")  # Such a node may not find itself by its name.
    assert first_node() is None
