"""A run keeps its best checkpoint, names it, and knows it after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.checkpoint.save.manifest import finished_checkpoints, verify
from tests.support.corpus import TinyData
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case


@pytest.mark.parametrize("asynchronous", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_the_best_is_kept_named_and_known_after_a_resume(
    asynchronous: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """A learning rate that ruins the model after step 4: the best is early, and stays."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        trainer__checkpoint__async_save=asynchronous,
        trainer__checkpoint__every_n_steps="2",
        trainer__val_check_interval="2",
        trainer__checkpoint__keep_last="1",
        trainer__checkpoint__keep_best="1",
        trainer__checkpoint__keep_every_n_steps="6",
    )
    (first,) = gloo_pool.run(1, run_case, [*settings, "trainer.max_steps=4"])
    ruined = [*settings, "optim.lr=3", "optim.min_lr=3", "optim.clip_grad=0"]
    (outcome,) = gloo_pool.run(1, run_case, [*ruined, "trainer.max_steps=10"])
    assert (first.code, outcome.code) == (0, 0)
    losses = {
        record["step"]: (record["valid.en.loss"] + record["valid.hi.loss"]) / 2
        for record in outcome.metrics
        if "valid.en.loss" in record
    }
    assert min(losses, key=lambda step: losses[step]) == 4 and set(losses) == {2, 4, 6, 8, 10}
    checkpoints = tmp_path / "tiny" / "checkpoints"
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == ["best", "step_00000004", "step_00000006", "step_00000010"]
    assert (checkpoints / "best").readlink() == Path("step_00000004")
    for path in finished_checkpoints(checkpoints):
        manifest = verify(path)
        assert manifest["valid_loss"] == losses[manifest["step"]], "that of its own step"
    assert f"best   step_00000004, validation loss {losses[4]:.4f}" in first.stdout
    start_there = ["name=second", f"init_from={checkpoints / 'best'}", "trainer.max_steps=1"]
    (second,) = gloo_pool.run(1, run_case, [*settings, *start_there])
    assert second.code == 0 and f"start  from {checkpoints / 'best'}" in second.stdout


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_a_last_step_that_is_saved_before_it_is_validated_can_be_the_best(
    asynchronous: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Step 6 is one to save and, as the last one, validated after that."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        save_nemo="false",
        trainer__max_steps="6",
        trainer__checkpoint__async_save=asynchronous,
        trainer__checkpoint__every_n_steps="2",
        trainer__val_check_interval="4",
        trainer__checkpoint__keep_last="1",
        trainer__checkpoint__keep_best="1",
    )
    (outcome,) = gloo_pool.run(1, run_case, settings)
    losses = {
        record["step"]: (record["valid.en.loss"] + record["valid.hi.loss"]) / 2
        for record in outcome.metrics
        if "valid.en.loss" in record
    }
    assert outcome.code == 0 and losses[6] < losses[4]
    assert f"best   step_00000006, validation loss {losses[6]:.4f}" in outcome.stdout
    checkpoints = tmp_path / "tiny" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "step_00000006"]
    assert "valid_loss" not in verify(checkpoints / "best")
