"""Loss spikes: the run goes back and leaves out the samples, as if it had never read them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.errors import UserError
from recipes.run_directory import read_rollbacks
from recipes.training.loss_spikes import SpikeDetector, samples_left_out
from tests.support.background_cases import NEVER, held_until_case
from tests.support.corpus import TinyData
from tests.support.fault_cases import ends, faulty_case, start_ranks
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

STEPS, GUARD = 20, 4
# The samples of step 15.
CORRUPTED = "corrupted_samples:sample=112,last=119"
LEFT_OUT = [[104, 119]]
"""Those of step 14 too, whose update may have been the cause."""


def test_what_is_a_spike() -> None:
    detector = SpikeDetector(zscore=3.0, window=4)
    assert [detector.add(step, loss) for step, loss in enumerate((90.0, 5.0, 5.2, 4.9, 5.1), 1)] == [None] * 5
    spike = detector.add(6, 5.6)
    assert spike is not None and (spike.step, spike.loss) == (6, 5.6)
    assert spike.mean == pytest.approx(5.05) and spike.zscore == pytest.approx(0.55 / 0.1291, rel=1e-3)
    assert list(detector.losses) == [5.0, 5.2, 4.9, 5.1], "spikes do not count"
    assert detector.add(7, float("nan")) is None and len(detector.losses) == 4
    assert detector.add(8, 1.0) is None, "a low loss is none"
    detector.restore([5.0, 5.2, 4.9, 5.1])
    assert detector.add(6, 5.6) == spike


def test_samples_left_out() -> None:
    rollbacks: list[dict[str, Any]] = [{"samples": [24, 31]}, {"samples": [8, 15]}, {"samples": [40, 60]}]
    assert samples_left_out([[2, 3], [16, 17], [45, 70]], rollbacks) == [
        [2, 3],
        [8, 15],
        [16, 17],
        [24, 31],
        [40, 70],
    ]


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollbacks.json"
    assert read_rollbacks(path) == []
    for text in ("{", "[{}]", '[{"samples": [5, 2]}]'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"rollbacks\.json: cannot be read"):
            read_rollbacks(path)


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": str(STEPS), "optim__lr": "3e-3"}
    settings |= {"trainer__checkpoint__every_n_steps": "4", "trainer__checkpoint__keep_last": "99"}
    settings |= {"trainer__guards__loss_spike_zscore": "4", "trainer__guards__loss_spike_window": "8"}
    return data.overrides(**settings | changes)


@pytest.fixture(scope="module")
def spared(
    gloo_pool: GlooPool, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, float]:
    """The losses of two ranks that have never read the samples."""
    settings = overrides(tiny_data, tmp_path_factory.mktemp("spared"))
    outcome: Outcome = gloo_pool.run(2, run_case, [*settings, f"data.skip={LEFT_OUT}".replace(" ", "")])[0]
    assert outcome.code == 0, outcome.message
    return outcome.losses


def test_the_run_goes_on_without_the_samples(
    spared: dict[int, float], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """On both ranks, in the same processes. Only every fifth step is logged, all are looked at. Local
    checkpoints of before, newer than the shared one, are deleted: nobody will ask for them any more.
    """
    settings = overrides(tiny_data, tmp_path, trainer__log_every_n_steps="5", trainer__ema__decay="0.9")
    local = {"directory": str(tmp_path / "disk"), "every_n_steps": "7"}
    settings += [f"trainer.checkpoint.local.{key}={value}" for key, value in local.items()]
    outcomes: list[Outcome] = gloo_pool.run(2, faulty_case, settings, CORRUPTED)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert outcomes[0].losses == {step: spared[step] for step in (1, 5, 10, 15, 20)}
    (event,) = [record for record in outcomes[0].metrics if record.get("event") == "rolled_back"]
    assert (event["spike_step"], event["step"], [event["samples"]]) == (15, 12, LEFT_OUT)
    assert event["spike_zscore"] > 4 and set(event["documents"]) == {"en", "hi"}
    assert "back to step_00000012, without samples 104 to 119, whose documents are in" in outcomes[0].stderr
    for rank, outcome in enumerate(outcomes):
        assert outcome.stderr.count(f"fault on rank {rank} at step 15: corrupted_samples") == 1
    kept = json.loads((tmp_path / "tiny" / "rollbacks.json").read_text())
    assert [each["samples"] for each in kept] == LEFT_OUT
    assert outcomes[0].stdout.count("local  step 14 in ") == 2
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.slow
def test_back_to_a_save_that_is_under_way(
    spared: dict[int, float], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Steps 6 and 12 are still to be written when step 15 turns out to be a spike."""
    changes = {"checkpoint__every_n_steps": "6", "checkpoint__async_save": "true"}
    settings = overrides(tiny_data, tmp_path, **{f"trainer__{key}": value for key, value in changes.items()})
    ranks = gloo_pool.run(2, held_until_case, settings, NEVER, CORRUPTED)
    assert [(outcome.code, under_way[0]) for outcome, under_way in ranks] == [(0, 2), (0, 2)]
    (event,) = [record for record in ranks[0][0].metrics if record.get("event") == "rolled_back"]
    assert event["step"] == 12 and ranks[0][0].losses == spared
    saved = [path.name for path in finished_checkpoints(tmp_path / "tiny" / "checkpoints")]
    assert saved == [f"step_{step:08d}" for step in (6, 12, 18, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [16, 18])
def test_kill_9_after_going_back(
    killed_at: int, spared: dict[int, float], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Before and after the next checkpoint; the same command goes on as if nothing had been."""
    settings = overrides(tiny_data, tmp_path)
    faults = f"{CORRUPTED}; kill:step={killed_at}"
    codes = [code for code, _, _ in ends(start_ranks(settings, faults), timeout=240)]
    assert -signal.SIGKILL in codes
    assert (tmp_path / "tiny" / "rollbacks.json").exists()
    outcome = gloo_pool.run(2, faulty_case, settings, CORRUPTED)[0]
    assert outcome.code == 0 and outcome.losses == spared


def test_spikes_without_end(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__guards__max_rollbacks="1")
    (outcome,) = gloo_pool.run(1, faulty_case, settings, "corrupted_samples:sample=112,last=999")
    assert outcome.code == GUARD
    last = outcome.stderr.splitlines()[-1]
    assert (
        last.startswith("stopped by a guard: step 1") and "after 1 rollbacks (trainer.guards.max_roll" in last
    )


def test_without_a_checkpoint_to_go_back_to(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    settings = overrides(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="null")
    (outcome,) = gloo_pool.run(1, faulty_case, settings, CORRUPTED)
    assert outcome.code == GUARD
    assert "there is no checkpoint before step 14 to go back to" in outcome.stderr
    assert not (tmp_path / "tiny" / "rollbacks.json").exists()
