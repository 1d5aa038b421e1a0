"""Reading a checkpoint while its run goes on and deletes old ones."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.convert import convert
from recipes.checkpoint.open import open_stored_model
from recipes.checkpoint.save.held import delete_unless_held, hold
from recipes.checkpoint.save.manifest import MANIFEST, finished_checkpoints, write_manifest
from recipes.checkpoint.save.retention import prune
from recipes.errors import UserError
from tests.support.corpus import TinyData
from tests.support.forked import Forked
from tests.support.pool import GlooPool
from tests.support.run_cases import run_case, wait_for_step


@pytest.fixture
def finished(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> Path:
    """A run of two steps that has kept both."""
    settings = tiny_data.overrides(
        output_dir=str(tmp_path / "outputs"),
        save_nemo="false",
        trainer__max_steps="2",
        trainer__checkpoint__every_n_steps="1",
    )
    (outcome,) = gloo_pool.run(1, run_case, settings)
    assert outcome.code == 0
    return tmp_path / "outputs" / "tiny"


def test_conversions_while_the_run_goes_on(tiny_data: TinyData, tmp_path: Path) -> None:
    """A save after every step that keeps the newest alone: what is read lives on until it has been."""
    run = tmp_path / "tiny"
    settings = tiny_data.overrides(
        output_dir=str(tmp_path),
        trainer__max_steps="100000",
        optim__lr_decay_steps="20",
        trainer__checkpoint__every_n_steps="1",
        trainer__checkpoint__keep_last="1",
    )
    process = Forked("recipes.pretrain", settings)

    def goes_on(step: int) -> None:
        wait_for_step(run / "metrics.jsonl", step, lambda: process.poll() is None, limit_s=240)

    try:
        goes_on(3)
        with open_stored_model(run) as source:
            step = int(source.path.name.removeprefix("step_"))
            goes_on(step + 4)
            assert source.path in finished_checkpoints(run / "checkpoints")
            held = {name: tensor.load() for name, tensor in source.tensors.items()}
            convert(source.path, tmp_path / "held.nemo", "nemo")
        with open_stored_model(tmp_path / "held.nemo") as converted:
            assert held.keys() == converted.tensors.keys()
            assert all(torch.equal(held[name], tensor.load()) for name, tensor in converted.tensors.items())
        goes_on(step + 8)
        deadline = time.monotonic() + 240
        while source.path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not source.path.exists(), "it goes with a later save"
        for number in range(3):
            convert(run, tmp_path / f"{number}.nemo", "nemo")
    finally:
        process.kill()


def test_what_is_held_stays(finished: Path) -> None:
    older, newer = finished_checkpoints(finished / "checkpoints")
    with hold(older), hold(older):  # By two readers.
        prune(finished / "checkpoints", keep_last=1)
        assert finished_checkpoints(finished / "checkpoints") == [older, newer]
    prune(finished / "checkpoints", keep_last=1)
    assert finished_checkpoints(finished / "checkpoints") == [newer]


def test_what_is_being_deleted_is_not_held(tmp_path: Path) -> None:
    write_manifest(tmp_path, step=1)
    assert delete_unless_held(tmp_path)
    with pytest.raises(UserError, match="has just been deleted, as its run keeps newer ones"):
        hold(tmp_path)


def test_without_locks_a_deleted_checkpoint_is_one_line_and_no_half_a_model(
    finished: Path, tmp_path: Path
) -> None:
    step = finished_checkpoints(finished / "checkpoints")[-1]

    def delete(done: int, total: int) -> None:
        if step.exists():
            (step / MANIFEST).unlink()
            shutil.rmtree(step)

    for target in ("model.nemo", "model_hf"):
        backup = tmp_path / "backup"
        shutil.copytree(step, backup)
        with pytest.raises(UserError, match=r"__0_0.distcp: .*was deleted while it was being read$"):
            convert(finished, tmp_path / target, "nemo" if target.endswith("nemo") else "hf", progress=delete)
        assert not (tmp_path / target).exists()
        backup.rename(step)
