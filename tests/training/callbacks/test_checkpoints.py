"""Saves by time: all ranks save at the same step, and the run continues exactly from there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from recipes.checkpoint.save.manifest import finished_checkpoints
from recipes.config.hydra_app import compose
from recipes.config.validate import validate_pretrain
from recipes.errors import UserError
from recipes.plan.stop_notice import VARIABLE
from tests.support.background_cases import slow_case
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

SECONDS_PER_STEP = 25


def slow_steps_case(overrides: list[str], rank: int) -> Outcome:
    """A run whose steps take 25 seconds by the clock of ``rank``; the other ranks' clocks stand still."""
    from recipes.config.world import launched_world
    from recipes.training.callbacks import checkpoints

    now = 0.0
    if launched_world().rank == rank:
        end_of_step = checkpoints.Checkpoints.on_train_batch_end

        def slow(self: Any, *args: Any) -> None:
            nonlocal now
            now += SECONDS_PER_STEP
            end_of_step(self, *args)

        checkpoints.Checkpoints.on_train_batch_end = slow  # type: ignore[method-assign]
    checkpoints.time = SimpleNamespace(monotonic=lambda: now)  # type: ignore[assignment]
    return run_case(overrides)


def settings(data: TinyData, directory: Path, **changes: str) -> list[str]:
    common = {
        "output_dir": str(directory), "save_nemo": "false", "trainer__max_steps": "8",
        "trainer__checkpoint__every_minutes": "1", "trainer__checkpoint__keep_last": "9",
    }  # fmt: skip
    return data.overrides(**common | changes)


def steps(directory: Path) -> list[int]:
    paths = finished_checkpoints(directory / "tiny" / "checkpoints")
    return sorted(int(path.name.removeprefix("step_")) for path in paths)


@pytest.mark.parametrize("asynchronous", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_the_first_ranks_clock_decides(
    asynchronous: str, tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool
) -> None:
    overrides = settings(tiny_data, tmp_path, trainer__checkpoint__async_save=asynchronous)
    outcomes = gloo_pool.run(2, slow_steps_case, overrides, 0)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    # 75 seconds are the first above a minute, counted from the last save.
    assert steps(tmp_path) == [3, 6, 8]
    # A killed run has the checkpoints up to a moment; it repeats the losses from there.
    whole = outcomes[0].losses
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step_00000006")
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step_00000008")
    resumed = gloo_pool.run(2, slow_steps_case, overrides, 1)
    assert resumed[0].losses == whole
    assert f"resume {tmp_path}/tiny/checkpoints/step_00000003" in resumed[0].stdout
    # Now the second rank's clock runs, which does not count.
    assert steps(tmp_path) == [3, 8]


def test_steps_and_minutes_together(tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool) -> None:
    overrides = settings(tiny_data, tmp_path, trainer__checkpoint__every_n_steps="5")
    assert gloo_pool.run(1, slow_steps_case, overrides, 0)[0].code == 0
    assert steps(tmp_path) == [3, 5, 8]


def waiting_case(overrides: list[str]) -> Outcome:
    """By a clock by which a step takes 25 seconds, and the writers of each save 7 once training waits for
    them; nothing is written before.
    """
    from recipes.checkpoint.save.background import BackgroundSave
    from recipes.checkpoint.save.ranks import all_agree
    from recipes.training.callbacks import checkpoints

    now, finish = 0.0, BackgroundSave.finish
    end_of_step = checkpoints.Checkpoints.on_train_batch_end

    def slow(self: Any, *args: Any) -> None:
        nonlocal now
        now += SECONDS_PER_STEP
        end_of_step(self, *args)

    def waited_for(self: Any, *, wait: bool) -> Path | None:
        nonlocal now
        if not wait:
            assert all_agree(True)
            return None
        now += 7 * bool(self.pending)
        return finish(self, wait=True)

    checkpoints.Checkpoints.on_train_batch_end = slow  # type: ignore[method-assign]
    BackgroundSave.finish = waited_for  # type: ignore[method-assign]
    checkpoints.time = SimpleNamespace(monotonic=lambda: now)  # type: ignore[assignment]
    return run_case(overrides)


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_save_has_its_own_times(
    world: int, tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool
) -> None:
    """Step 2 begins at 50 s, 4 at 100, 6 at 157, after 7 for step 2; 4 ends at 164 and 6 at 171."""
    changes = {"every_minutes": "null", "every_n_steps": "2", "async_save": "true"}
    changes = {f"trainer__checkpoint__{key}": value for key, value in changes.items()}
    overrides = settings(tiny_data, tmp_path, trainer__max_steps="6", **changes)
    outcome = gloo_pool.run(world, waiting_case, [*overrides, f"parallel.world_size={world}"])[0]
    lines = [line.partition(" in ")[2] for line in outcome.stdout.splitlines() if line.startswith("saved")]
    assert lines == [f"{took}, training stood still for 7.0 s" for took in ("1m47s", "1m04s", "14s")]


def short_notice_case(overrides: list[str], notice: str) -> Outcome:
    """A run whose saves take more than 0.6 s, in a job that is told ``notice`` seconds before its end."""
    with patch.dict(os.environ, {VARIABLE: notice}):
        return slow_case(overrides, 0.6)


def test_saves_that_a_stopped_job_has_no_time_for(
    tiny_data: TinyData, tmp_path: Path, gloo_pool: GlooPool
) -> None:
    """Two are under way, since each is written for several steps, and the last one comes on top: once."""
    changes = {"every_minutes": "null", "every_n_steps": "1", "async_save": "true"}
    changes = {f"trainer__checkpoint__{key}": value for key, value in changes.items()}
    for notice, warned in (("1", 1), ("300", 0)):
        directory = tmp_path / notice
        overrides = settings(tiny_data, directory, trainer__max_steps="4", **changes)
        (outcome,) = gloo_pool.run(1, short_notice_case, overrides, notice)
        assert steps(directory) == [1, 2, 3, 4]
        assert outcome.stderr.count("stop_before_limit_s") == warned, outcome.stderr
        if warned:
            key = "cluster.launch.stop_before_limit_s=1"
            assert f"warning: {key}: after the signal 3 saves of 1 s may have to" in outcome.stderr
    refused = gloo_pool.run(1, short_notice_case, settings(tiny_data, tmp_path / "wrong"), "5m")[0]
    assert refused.code == 2 and refused.message.startswith(f"{VARIABLE}=5m: write seconds")


def test_refusals(tiny_data: TinyData, tmp_path: Path) -> None:
    for value in ("0", "-1"):
        config = compose("pretrain", settings(tiny_data, tmp_path, trainer__checkpoint__every_minutes=value))
        with pytest.raises(UserError, match=r"every_minutes=.*: must be positive"):
            validate_pretrain(config)
    # What counts steps needs steps.
    config = compose("pretrain", settings(tiny_data, tmp_path, trainer__checkpoint__keep_every_n_steps="10"))
    with pytest.raises(UserError, match=r"set trainer\.checkpoint\.every_n_steps"):
        validate_pretrain(config)
