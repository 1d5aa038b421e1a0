"""optim.groups and optim.z_loss_coeff in whole runs: under every layout, and over a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.open import open_stored_model
from tests.support.corpus import TinyData
from tests.support.layouts import LAYOUTS
from tests.support.pool import GlooPool
from tests.support.run_cases import Outcome, run_case

STEPS = 6
GROUPS = (
    "[{pattern:'embedding.*',lr:3e-3,weight_decay:0.0},{pattern:'decoder.layers.[23].*',lr_mult:0.3},"
    "{pattern:'decoder.layers.0.*norm*',weight_decay:0.5}]"
)
SETTINGS = {
    "adamw": {"optim__lr": "3e-3", "model__share_embeddings_and_output_weights": "true"},
    "muon": {"optim": "muon", "model__share_embeddings_and_output_weights": "false"},
}


def overrides(data: TinyData, output_dir: Path, **changes: str) -> list[str]:
    settings = {"output_dir": str(output_dir), "save_nemo": "false", "data__valid": "{}"}
    settings |= {"trainer__max_steps": str(STEPS), "optim__groups": GROUPS, "optim__z_loss_coeff": "1e-2"}
    return data.overrides(**(settings | changes))


def run(pool: GlooPool, layout: str, settings: list[str]) -> Outcome:
    size, parallel = LAYOUTS[layout] if layout != "single" else (1, [])
    outcome: Outcome = pool.run(size, run_case, [*settings, *parallel])[0]
    assert outcome.code == 0, outcome.message
    return outcome


@pytest.mark.parametrize(
    ("optimizer", "layout"),
    [("adamw", "tp2_sp"), pytest.param("adamw", "pp2", marks=pytest.mark.slow), ("muon", "tp2")],
)
def test_every_layout_trains_alike(
    optimizer: str, layout: str, gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = SETTINGS[optimizer]
    whole = run(gloo_pool, "single", overrides(tiny_data, tmp_path / "whole", **changes)).losses
    split = run(gloo_pool, layout, overrides(tiny_data, tmp_path / "split", **changes)).losses
    assert [*split] == [*whole] and [*split.values()] == pytest.approx([*whole.values()], rel=2e-5)


def test_each_setting_matters(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    found = [
        run(gloo_pool, "single", overrides(tiny_data, tmp_path / str(number), **SETTINGS["adamw"], **changes))
        for number, changes in enumerate(({}, {"optim__groups": "[]"}, {"optim__z_loss_coeff": "0"}))
    ]
    assert len({outcome.losses[1] for outcome in found}) == 1, "the loss is logged without the z-loss"
    assert len({outcome.losses[STEPS] for outcome in found}) == 3


RATES_BY_KIND = SETTINGS["adamw"] | {"optim__groups": "[]", "optim__embedding_lr": "6e-3"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(SETTINGS["adamw"], id="adamw"),
        pytest.param(SETTINGS["muon"], id="muon", marks=pytest.mark.slow),
        pytest.param(RATES_BY_KIND, id="adamw, rates by kind", marks=pytest.mark.slow),
    ],
)
def test_resumes_are_exact(
    changes: dict[str, str], gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path
) -> None:
    """megatron-core mixes up groups whose weight decay is the same: their rates and decays must stay."""
    settings = [*overrides(tiny_data, tmp_path, **changes), "trainer.checkpoint.every_n_steps=3"]
    whole = run(gloo_pool, "dp2", settings)
    shutil.rmtree(tmp_path / "tiny" / "checkpoints" / f"step_{STEPS:08d}")
    resumed = run(gloo_pool, "dp2", settings)
    assert {"event": "resumed", "step": 3, "checkpoint": "step_00000003"} in resumed.metrics
    assert resumed.losses == whole.losses and len(whole.losses) == STEPS


def test_groups_may_change_on_a_resume(gloo_pool: GlooPool, tiny_data: TinyData, tmp_path: Path) -> None:
    """What has been trained stays; here nothing changes from there on."""
    settings = [*overrides(tiny_data, tmp_path, **SETTINGS["adamw"]), "trainer.checkpoint.keep_last=2"]
    run(gloo_pool, "single", [*settings, "trainer.max_steps=3"])
    frozen = [*settings, "optim.groups=[{pattern:'*',lr:0}]"]
    outcome = run(gloo_pool, "single", frozen)
    assert "changed settings:\n       optim.groups.0." in outcome.stdout
    before, after = (weights(tmp_path / "tiny" / "checkpoints" / f"step_{step:08d}") for step in (3, STEPS))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    with open_stored_model(checkpoint) as stored:
        return {name: tensor.load() for name, tensor in stored.tensors.items()}
