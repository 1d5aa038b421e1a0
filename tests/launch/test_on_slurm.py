"""The real trainer, started by tools.launch on a real Slurm of three virtual nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.corpus import TinyData
from tests.support.slurm_cluster import on_throwaway_slurm

CASES = (
    "undisturbed",
    "signalled",
    "time_limit",
    "preempted",
    "cancelled_for_another",
    "stopped",
    "hanging",
    "damaged",
    "full_disk",
    "unfit_node",
    "unfit_node_and_a_spare",
    "slow_link_and_a_spare",
    "node_lost",
)
STEPS = 12

# The first test waits for all cases, on a machine that may be busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def outcomes(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What tests/support/slurm_rehearsal.py tells of each case; one cluster for all."""
    directory = tmp_path_factory.mktemp("rehearsal")
    settings = tiny_data.overrides(
        trainer__max_steps=str(STEPS),
        trainer__checkpoint__every_n_steps="4",
        trainer__checkpoint__keep_last="2",
        save_nemo="false",
    )
    settings = [each for each in settings if not each.startswith("name=")]
    (directory / "data.json").write_text(json.dumps(settings), encoding="utf-8")
    module = ("-m", "tests.support.slurm_rehearsal", str(directory), *CASES)
    done = on_throwaway_slurm(3, directory / "slurm", sys.executable, *module)
    told: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    assert done.returncode == 0 and set(told) == set(CASES), done.stdout[-3000:] + done.stderr[-3000:]
    return told


def test_a_whole_run(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["undisturbed"]
    code, said = outcome["launched"]
    assert code == 0 and said.startswith("job    ")
    assert (outcome["state"], outcome["restarts"]) == ("COMPLETED", 0)
    assert [step for step, _ in outcome["losses"]] == list(range(1, STEPS + 1))


def test_a_second_submission_of_the_same_run_is_refused(outcomes: Mapping[str, Any]) -> None:
    code, said = outcomes["undisturbed"]["again"]
    assert code == 2 and said.count("\n") == 1 and "is this run already" in said


def test_status_and_logs(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["undisturbed"]
    assert "running for" in outcome["status"] and "loss" in outcome["status"]
    code, said = outcome["logs"]
    assert code == 0 and "node0" in said and "node1" in said
    assert "is over" in outcome["over"] and f"step_{STEPS:08}" in outcome["over"]


@pytest.mark.parametrize(
    "case",
    [
        *("signalled", "time_limit", "preempted", "cancelled_for_another"),
        *("node_lost", "unfit_node", "hanging", "damaged"),
    ],
)
def test_a_disturbed_run_ends_with_the_losses_of_the_undisturbed(
    case: str, outcomes: Mapping[str, Any]
) -> None:
    outcome = outcomes[case]
    # On a busy machine a node may be late to answer, which restarts the job once more.
    assert outcome["state"] == "COMPLETED" and outcome["restarts"] >= 1
    assert outcome["losses"] == outcomes["undisturbed"]["losses"]


def test_slurm_tells_a_job_of_its_time_limit(outcomes: Mapping[str, Any]) -> None:
    said = outcomes["time_limit"]["said"]
    assert "got USR1: asking the tasks to save and stop" in said and "srun ended, exit code 3" in said


def test_a_preempted_job_that_slurm_cancels_is_requeued(outcomes: Mapping[str, Any]) -> None:
    """Slurm shows when it was preempted, with or without a grace; scancel's jobs have no such time."""
    outcome = outcomes["cancelled_for_another"]
    assert min(outcome["of_each"]) >= 1 and "cancelled: not requeued" not in outcome["said"]
    assert outcome["notices"] == [["main", 0, 60], ["main", 60, 60]]


def test_a_rank_that_hangs_is_ended_by_the_watchdog(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["hanging"]
    assert "nothing has ended for 25 s since step 5" in outcome["said"]
    assert "_hang" in outcome["stacks"] and "requeued" in outcome["said"]


def test_a_damaged_checkpoint_is_passed_over(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["damaged"]
    assert "step_00000008 is passed over: " in outcome["said"]
    assert "checkpoints/step_00000004, step 4," in outcome["said"]
    assert outcome["checkpoints"] == ["damaged_step_00000008", "step_00000008", f"step_{STEPS:08}"]


def test_a_full_disk(outcomes: Mapping[str, Any]) -> None:
    """No checkpoint fits: the run ends, and has what it had. An old one must go first: it does."""
    outcome = outcomes["full_disk"]
    full = outcome["full"]
    assert full["ended"] == "FAILED" and full["kept"] == ["step_00000004"]
    assert (
        "stopped by a guard: " in full["log"] and "step 8 is not saved. Make room, start again" in full["log"]
    )
    assert "GB free, a checkpoint takes" in outcome["said"].removeprefix(full["log"])
    assert outcome["state"] == "COMPLETED" and outcome["losses"] == outcomes["undisturbed"]["losses"]
    assert outcome["checkpoints"] == ["step_00000008", f"step_{STEPS:08}"]


def test_another_node_takes_the_place_of_a_lost_one(outcomes: Mapping[str, Any]) -> None:
    assert outcomes["node_lost"]["lost"] not in outcomes["node_lost"]["nodes"]


def test_an_unfit_node_is_excluded(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["unfit_node"]
    assert "node node0 is left out: test $(uname -n) != node0 fails" in outcome["said"]
    assert "requeued without node0" in outcome["said"] and outcome["nodes"] == "node[1-2]"


def test_a_spare_node_takes_the_place_of_an_unfit_one(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["unfit_node_and_a_spare"]
    assert (outcome["state"], outcome["restarts"]) == ("COMPLETED", 0)
    assert outcome["logs"] == ["node1", "node2"]
    assert outcome["losses"] == outcomes["undisturbed"]["losses"]


def test_a_spare_node_takes_the_place_of_one_with_a_slow_link(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["slow_link_and_a_spare"]
    if "skipped" in outcome:
        pytest.skip(outcome["skipped"])
    assert "node node0 is left out: all-reduce with node" in outcome["said"], outcome["said"]
    assert "instead of 0.01 GB/s" in outcome["said"]
    assert (outcome["state"], outcome["restarts"], outcome["logs"]) == ("COMPLETED", 0, ["node1", "node2"])
    assert outcome["losses"] == outcomes["undisturbed"]["losses"]


def test_a_stopped_run_goes_on_when_it_is_launched_again(outcomes: Mapping[str, Any]) -> None:
    outcome = outcomes["stopped"]
    assert "saves and stops" in outcome["asked"]
    assert 6 <= outcome["stopped_at"] < STEPS
    assert outcome["losses"] == outcomes["undisturbed"]["losses"]
